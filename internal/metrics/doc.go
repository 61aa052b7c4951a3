// Package metrics shows a daemon's counters to Prometheus.
//
// Daemons keep plain counters under their own locks and pay nothing here until somebody asks; then a
// Source copies them into a Sink, under the names of the table Defs. The table is the
// documentation: `capstan metrics --docs` prints docs/metrics.md from it, and a name that is not in
// it cannot be shown.
//
// One process may hold several daemons (demo): all share one address and are told apart by the
// label daemon, which every sample has.
package metrics
