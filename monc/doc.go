// Package monc is the line that every daemon, client and tool keeps to the monitors.
//
//	Call ──▶ ┌────────┐ ──▶ the leading monitor (found by trying and by redirects)
//	Send ──▶ │ Client │
//	OnMaps ◀─└────────┘ ◀── maps pushed when they change, whole or as deltas
//
// There is one connection at a time, kept up for ever in the background. Calls that were not
// answered are sent again on the next one: every request of the conversation may arrive
// twice. The newest maps are pointers that readers load without a lock.
//
// Start at client.go; maps.go takes the maps in.
package monc
