// Package conf holds the settings of a cluster and its daemons.
//
// There is one table (knobs.go): each row names a setting, its type and unit, its default,
// its range and what it does. The table reads the TOML file, makes the command line flags and
// writes docs/config.md, so the three cannot disagree; a test keeps the page fresh.
//
//	defaults ──▶ file (capstan.conf) ──▶ flags ──▶ Config, a plain struct
//
// A key that is no setting is an error that names the nearest one that is.
package conf
