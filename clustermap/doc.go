// Package clustermap holds the versioned maps by which a cluster agrees on itself: OSDMap
// (where objects are and who is fenced), FSMap (who holds which rank), MonMap.
//
//	monitors ── change ──▶ next map, epoch+1 ── delta or whole ──▶ every daemon and client
//
// A map is an immutable value: to change one, Clone it, replace entries, Seal it. Only the
// monitors do; everybody else keeps pointers to maps that never change under him.
//
// Encoded maps begin with a version byte and list their entries in a fixed order, so equal
// maps have equal bytes. What is decoded has passed Check.
//
// Start at maps.go; osdmap.go answers questions, encode.go and delta.go are the bytes.
package clustermap
