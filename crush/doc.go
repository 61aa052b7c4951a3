// Package crush decides on which OSDs the replicas of a placement group should be: a pure
// function from a map, a rule and a number to an ordered list of OSDs.
//
//	root ─┬─ rack ─┬─ host ─┬─ osd.0     rule: take root, chooseleaf firstn 3 of type host, emit
//	      │        └─ host  └─ osd.1     x = pool and PG number
//	      └─ rack …
//
// Every device draws a straw whose length depends on x, the device's own id and its weight only
// (straw2): ln(u)/weight, the longest wins, and a bucket has the longest of its devices'. A step
// takes the n longest straws of all buckets of its type below where it stands. So a device that
// comes, goes or changes its weight moves what it gains or loses, and nothing else, however many
// stand on its host. Everything is integer arithmetic;
// the golden test pins the placements down, for a changed one moves all data.
//
// Words: device (an OSD with weight and class), bucket (a host, rack, zone or root), domain
// (the bucket type that no two replicas share), reweight (the share of a device's PGs that
// it accepts), exception (an operator's or balancer's substitution for one x).
//
// Start at map.go, then place.go; straw.go is the arithmetic.
package crush
