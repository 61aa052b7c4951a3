//go:build !race

package locker

// raceDetector: nothing here has goroutines, so under the detector, twenty times slower, the
// largest world is only begun; `make test` also runs this package without it.
const raceDetector = false
