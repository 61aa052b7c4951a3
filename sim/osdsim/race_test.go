//go:build race

package osdsim

const raceEnabled = true
