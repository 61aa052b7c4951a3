// Package archtest keeps the walls of the house: which package may import which, and what a
// pure core may not touch. It has tests only. An edge is added in the table of
// arch_test.go, with its reason.
package archtest
