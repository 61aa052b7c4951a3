package cluster

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/capstan-fs/capstan/internal/admin"
	"github.com/capstan-fs/capstan/mds"
)

// RankSubtrees is what one rank owns of the tree.
type RankSubtrees struct {
	Rank     int           `json:"rank"`
	Daemon   string        `json:"daemon"`
	Subtrees []mds.Subtree `json:"subtrees"`
}

// Subtrees asks the metadata daemons of dir that hold a rank what they own. Daemons that do not
// answer are named in silent.
func Subtrees(ctx context.Context, dir string) (list []RankSubtrees, silent []string, err error) {
	names := slices.DeleteFunc(daemonsIn(dir), func(n string) bool { return !strings.HasPrefix(n, "mds.") })
	if len(names) == 0 {
		return nil, nil, fmt.Errorf("%s holds no metadata daemon: name the cluster's directory with --dir D, or its file with --conf D/capstan.conf", dir)
	}
	list = []RankSubtrees{}
	for _, name := range names {
		path := filepath.Join(dir, name, admin.SocketName)
		var held struct{ Rank int }
		if askInto(ctx, path, "rank", &held) != nil {
			silent = append(silent, name)
			continue
		}
		row := RankSubtrees{Rank: held.Rank, Daemon: name}
		if held.Rank < 0 {
			continue // it stands by
		}
		if askInto(ctx, path, "subtrees", &row.Subtrees) != nil {
			silent = append(silent, name)
			continue
		}
		list = append(list, row)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Rank < list[j].Rank })
	return list, silent, nil
}
