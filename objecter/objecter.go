package objecter

import (
	"context"
	"errors"

	"github.com/rs/zerolog"

	"github.com/capstan-fs/capstan/clustermap"
	"github.com/capstan-fs/capstan/msgr"
	"github.com/capstan-fs/capstan/wire"
)

// ErrBlocklisted ends every operation of an instance that the cluster has fenced: nothing that
// was not answered before will be answered. ErrClosed ends those open at Close.
var (
	ErrBlocklisted = errors.New("objecter: this instance is blocklisted")
	ErrClosed      = errors.New("objecter: closed")
)

// Maps is where the objecter learns of the cluster; *monc.Client is one.
type Maps interface {
	OSDMap() *clustermap.OSDMap
	OnMaps(func(*clustermap.OSDMap, *clustermap.FSMap))
	WaitOSDEpoch(ctx context.Context, e wire.Epoch) (*clustermap.OSDMap, error)
}

// Config of an Objecter.
type Config struct {
	Net              msgr.Network
	Maps             Maps
	Self             msgr.Peer
	Log              zerolog.Logger
	MaxInFlightBytes int // back-pressure of Do; 0: 64 MiB
}

// Options of one operation.
type Options struct {
	Barrier wire.Epoch // the OSD must have a map at least this new
	FullTry bool       // may use the reserve of a full cluster
}

// Result is the OSD's answer. Errno is the operation's own failure. The data of reads is in
// Ops[i].Data and belongs to the receiver.
type Result struct {
	Errno   uint32
	Ops     []wire.ObjResult
	Version wire.Version
}
