// Package watch is what daemons note about their own work for people who look later: how long
// operations took (Hist), and which took too long and where (Slow, Ring).
//
// A Hist is a plain value that belongs to whoever holds the lock of what it measures; noting a
// duration is a shift and two additions. Nothing here reads a clock: cores bring durations from
// their events. What is read out of here goes to /metrics (internal/metrics) and to
// `capstan daemon NAME slow`.
package watch
