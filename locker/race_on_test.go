//go:build race

package locker

const raceDetector = true
