package server

import (
	"context"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// Raft says of a leadership that was lost and won again only the second, when nobody listened in
// between. What was asked of the first is forgotten: who asked must hear that, and ask again.
func TestWhoAskedAnEarlierLeadershipIsSentAway(t *testing.T) {
	net, cluster := msgr.NewMemory(), wire.UUID{1, 2, 3}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	d, err := Start(ctx, Config{Net: net, Dir: t.TempDir(), Name: "a", Addr: "mem:mon.a", Cluster: cluster, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.WaitLeader(ctx); err != nil {
		t.Fatal(err)
	}
	away := make(chan struct{}, 1)
	k, err := msgr.DialCaller(ctx, net, "mem:mon.a", msgr.Peer{Instance: wire.Instance{Kind: wire.KindTool, Nonce: 1}, Cluster: cluster}, func(_ *msgr.Conn, f *msgr.Frame) {
		if _, is := f.Msg.(*wire.MonNotLeader); is {
			away <- struct{}{}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, _, err := k.Call(ctx, &wire.MonSubscribe{}); err != nil {
		t.Fatal(err)
	}
	if err := d.takeOffice(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-away:
	case <-time.After(20 * time.Second):
		t.Fatal("the connection goes on with a leader that knows nothing of it")
	}
}
