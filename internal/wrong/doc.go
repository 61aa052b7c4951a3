// Package wrong names faults that can be switched on in Capstan itself, so that test suites can
// be scored against it: a suite that passes on a cluster with a fault has not looked there.
//
// A Set is a value that cores and clients get at their construction and never change; asking it
// is one AND, and an empty one is what every real cluster has. `capstan dev up --wrong NAME` is
// the only way to a full one: any other configuration that names a fault is refused.
//
// Start at table.go, which says of each fault what it does and which check of lockcert finds it;
// grep a constant's name for the line that goes wrong.
package wrong
