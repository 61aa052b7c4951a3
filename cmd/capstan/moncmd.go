package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-fs/capstan/internal/cluster"
)

// word is one command of the monitors: words of ours, words of theirs.
type word struct {
	use, short string
	ask        []string
	args       int
	more       int                                    // further arguments that may follow
	print      func(io.Writer, json.RawMessage) error // nil: a table
}

// monWords makes a verb of commands that the monitors answer.
func monWords(use, short string, words []word) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short}
	for _, w := range words {
		var f confFlags
		var asJSON bool
		sub := &cobra.Command{Use: w.use, Short: w.short, Args: cobra.RangeArgs(w.args, w.args+w.more),
			RunE: func(cmd *cobra.Command, args []string) error {
				env, err := f.tool()
				if err != nil {
					return err
				}
				v, err := env.MonCommand(cmd.Context(), append(append([]string{}, w.ask...), args...)...)
				if err != nil {
					return err
				}
				if w.print == nil || asJSON {
					return show(cmd, v, asJSON)
				}
				return w.print(cmd.OutOrStdout(), v)
			}}
		f.add(sub)
		sub.Flags().BoolVar(&asJSON, "json", false, "as JSON")
		cmd.AddCommand(sub)
	}
	return cmd
}

var osdWords = []word{
	{use: "tree", short: "Show the OSDs under their hosts, with weights", ask: []string{"osd", "tree"}, print: printTree},
	{use: "df", short: "Show how full each OSD is", ask: []string{"osd", "df"}, print: printDF},
	{use: "dump", short: "Show all that the monitors know of pools and OSDs", ask: []string{"osd", "dump"}},
	{use: "down ID", short: "Mark an OSD down: a live one comes back by itself", ask: []string{"osd", "down"}, args: 1},
	{use: "out ID", short: "Take an OSD out: its data moves to the others", ask: []string{"osd", "out"}, args: 1},
	{use: "in ID", short: "Take an OSD back in", ask: []string{"osd", "in"}, args: 1},
	{use: "rm ID", short: "Forget an OSD that is stopped and holds nothing (after `osd drain`)", ask: []string{"osd", "rm"}, args: 1},
	{use: "reweight ID SHARE", short: "Give an OSD a share (0 to 1) of what its weight would bring", ask: []string{"osd", "reweight"}, args: 2},
}

var crushWords = []word{
	{use: "move ID zone=Z|rack=R|host=H …", short: "Move an OSD in the hierarchy; what is not named stays", ask: []string{"osd", "crush", "move"}, args: 2, more: 2},
	{use: "weight ID WEIGHT", short: "Set what an OSD weighs (1 is a TiB by custom)", ask: []string{"osd", "crush", "weight"}, args: 2},
	{use: "class ID CLASS|none", short: "Set the class of an OSD's device (ssd, hdd, …)", ask: []string{"osd", "crush", "class"}, args: 2},
}

var poolWords = []word{
	{use: "ls", short: "List the pools", ask: []string{"pool", "ls"}},
	{use: "create NAME [size=N] [min_size=N] [pg_num=N] [class=CLASS]", short: "Make a pool, on devices of a class if one is named", ask: []string{"pool", "create"}, args: 1, more: 4},
	{use: "set NAME size|min_size|pg_num N", short: "Change how many replicas a pool has, how many a write needs, or split its PGs", ask: []string{"pool", "set"}, args: 3},
}

var pgWords = []word{
	{use: "ls", short: "List the placement groups: who serves, who is in sync, what each waits for", ask: []string{"pg", "dump"}},
	{use: "give-up PG OSD UUID", short: "Give up a lost member of a PG, and what only it had", ask: []string{"pg", "give-up"}, args: 3},
}

var fsWords = []word{
	{use: "status", short: "Show the ranks, who holds them and who stands by", ask: []string{"fs", "dump"}, print: printFS},
	{use: "dump", short: "Show all that the monitors know of ranks", ask: []string{"fs", "dump"}},
	{use: "set ranks N", short: "Set how many ranks there are: free daemons take new ones, and the highest stop when they own nothing", ask: []string{"fs", "set"}, args: 2},
	{use: "repaired RANK", short: "Let a damaged rank be started again, after the object was restored", ask: []string{"fs", "repaired"}, args: 1},
}

var blocklistWords = []word{
	{use: "ls", short: "List the fenced clients and daemons, and why", ask: []string{"blocklist", "ls"}},
	{use: "add INSTANCE", short: "Fence an instance (as `capstan sessions` prints it): nothing of it is accepted any more", ask: []string{"blocklist", "add"}, args: 1},
}

func printTree(out io.Writer, v json.RawMessage) error {
	type node struct {
		ID       int32   `json:"id"`
		Name     string  `json:"name"`
		Type     string  `json:"type"`
		Weight   float64 `json:"weight"`
		Up       bool    `json:"up"`
		Reweight float64 `json:"reweight"`
		Children []int32 `json:"children"`
	}
	var nodes []node
	if err := json.Unmarshal(v, &nodes); err != nil {
		return err
	}
	byID, child := map[int32]node{}, map[int32]bool{}
	for _, n := range nodes {
		byID[n.ID] = n
		for _, c := range n.Children {
			child[c] = true
		}
	}
	var walk func(n node, depth int)
	walk = func(n node, depth int) {
		name := strings.Repeat("  ", depth) + n.Name
		switch {
		case n.Type != "osd":
			fmt.Fprintf(out, "%-24s %s\n", name, n.Type)
		case n.Up:
			fmt.Fprintf(out, "%-24s up    weight %.4g, reweight %.4g\n", name, n.Weight, n.Reweight)
		default:
			fmt.Fprintf(out, "%-24s DOWN  weight %.4g, reweight %.4g\n", name, n.Weight, n.Reweight)
		}
		for _, c := range n.Children {
			walk(byID[c], depth+1)
		}
	}
	for _, n := range nodes {
		if !child[n.ID] {
			walk(n, 0)
		}
	}
	return nil
}

func printFS(out io.Writer, v json.RawMessage) error {
	var fs struct {
		MaxRanks int `json:"max_ranks"`
		Ranks    []struct {
			Rank              int
			State, Name, Addr string
			Wanted            bool
		}
		Standbys []string
	}
	if err := json.Unmarshal(v, &fs); err != nil {
		return err
	}
	for _, r := range fs.Ranks {
		switch {
		case r.Name != "":
			fmt.Fprintf(out, "rank %-3d %-13s mds.%s at %s\n", r.Rank, r.State, r.Name, r.Addr)
		case r.Wanted:
			fmt.Fprintf(out, "rank %-3d %-13s nobody holds it\n", r.Rank, r.State)
		}
	}
	standbys := "none"
	if len(fs.Standbys) > 0 {
		standbys = "mds." + strings.Join(fs.Standbys, ", mds.")
	}
	_, err := fmt.Fprintf(out, "wanted   %d ranks\nstandbys %s\n", fs.MaxRanks, standbys)
	return err
}

func printDF(out io.Writer, v json.RawMessage) error {
	var rows []struct {
		ID          int
		Total, Used uint64
		PGs         int
		Up          bool
	}
	if err := json.Unmarshal(v, &rows); err != nil {
		return err
	}
	for _, r := range rows {
		state, percent := "up", 0.0
		if !r.Up {
			state = "DOWN"
		}
		if r.Total > 0 {
			percent = 100 * float64(r.Used) / float64(r.Total)
		}
		fmt.Fprintf(out, "osd.%-3d %-5s %9s of %9s used (%.0f%%), %d PGs\n", r.ID, state, cluster.SizeText(r.Used), cluster.SizeText(r.Total), percent, r.PGs)
	}
	return nil
}
