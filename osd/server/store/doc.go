// Package store keeps the objects, logs and named values of one OSD on a disk. It implements
// osd.Store. (Picture and rules follow with the first working version.)
package store
