package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"
)

// pgRow is what "pg dump" says of one PG, as far as moving needs it.
type pgRow struct {
	PG       string `json:"pg"`
	InSync   []int  `json:"in_sync"`
	Learners []int  `json:"learners"`
}

// WaitDrained waits until no PG needs OSD id any more; said hears of progress.
func (e *Env) WaitDrained(ctx context.Context, id string, said func(left int, waited time.Duration)) error {
	n, err := strconv.Atoi(id)
	if err != nil {
		return fmt.Errorf("no OSD %q", id)
	}
	began, last := time.Now(), -1
	for {
		v, err := e.MonCommand(ctx, "pg", "dump")
		if err != nil {
			return err
		}
		var rows []pgRow
		if err := json.Unmarshal(v, &rows); err != nil {
			return fmt.Errorf("pg dump: %w", err)
		}
		left := 0
		for _, r := range rows {
			if slices.Contains(r.InSync, n) || slices.Contains(r.Learners, n) {
				left++
			}
		}
		if left == 0 {
			return nil
		}
		if left != last {
			last = left
			said(left, time.Since(began))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%d PGs are still on osd.%s; it goes on, `capstan osd drain %s` waits again: %w", left, id, id, ctx.Err())
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// FreeOSD is the lowest number that no OSD has.
func (e *Env) FreeOSD(ctx context.Context) (int, error) {
	v, err := e.MonCommand(ctx, "osd", "df")
	if err != nil {
		return 0, err
	}
	var rows []struct{ ID int }
	if err := json.Unmarshal(v, &rows); err != nil {
		return 0, fmt.Errorf("osd df: %w", err)
	}
	id := 0
	for slices.ContainsFunc(rows, func(r struct{ ID int }) bool { return r.ID == id }) {
		id++
	}
	return id, nil
}

// DevAddOSD starts one more OSD in a dev cluster.
func DevAddOSD(ctx context.Context, dir string) (string, error) {
	d, err := OpenDev(dir)
	if err != nil {
		return "", err
	}
	lock, err := lockDir(d.Dir)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	name := fmt.Sprintf("osd.%d", d.Conf.OSDs)
	d.Conf.OSDs++
	if err := d.Conf.Save(d.ConfPath()); err != nil {
		return "", err
	}
	return name, d.spawn(name)
}
