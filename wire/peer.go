package wire

// The conversation of ranks with each other: how a directory is handed from one to another
// (docs/ranks.md). Each rank opens a session of its own toward a rank that it has something to say
// to; what is said on it is numbered and resent like all sessions'. Every message may come twice or
// from a life of its sender that is over, so each names what it is about, a directory and the attempt
// to hand it over, and means nothing to who knows of no such attempt.
const (
	TPeerHello Type = BasePeer + iota
	TExport
	TImported
	TExportEnd
	TExportAsk
	TImportEnded
	TGiveBack
	TKept
	TSums
	TSumsTaken
)

func init() {
	Register[PeerHello]()
	Register[Export]()
	Register[Imported]()
	Register[ExportEnd]()
	Register[ExportAsk]()
	Register[ImportEnded]()
	Register[GiveBack]()
	Register[Kept]()
	Register[Sums]()
	Register[SumsTaken]()
}

// PeerHello is the first message of a rank to another. Epoch is an FSMap that names the sender as
// the rank's holder: who has an older one waits for it.
type PeerHello struct {
	_msgpack struct{} `msgpack:",as_array"`
	Rank     Rank
	Epoch    Epoch
}

// Export offers an empty directory: the receiver is to journal that it may own it from now on, and to
// serve it to nobody before it hears ExportEnd. Attempt rises with every offer of a rank, over its
// lives. Parent and Name are its name, which the rank that has it keeps. Back: the receiver has it.
type Export struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Attempt  uint64
	Parent   Ino
	Name     string
	Path     string // for people
	Pin      int32  // rank + 1; 0: none
	Back     bool
	Dentry   []byte // the record of its home as of now, the inode inside
	Header   []byte // … of its contents
}

// Imported answers an Export: the import is durable, as one of which the end is not known yet, or
// was refused with Errno.
type Imported struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Attempt  uint64
	Errno    uint32
}

// ExportEnd is the exporter's decision. Won: the receiver owns the directory, and what the exporter
// has journaled says so; else nothing has happened.
type ExportEnd struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Attempt  uint64
	Won      bool
}

// ExportAsk is asked by an importer that does not know how the attempt ended.
type ExportAsk struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Attempt  uint64
}

// ImportEnded says that the import is durable and final: the exporter is asked of it no more.
type ImportEnded struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Attempt  uint64
}

// GiveBack asks the owner of a directory to hand it to the rank that has its name, if it is empty.
type GiveBack struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
}

// Kept answers a GiveBack that is not followed.
type Kept struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Errno    uint32
}

// Sums tells the rank that has a directory's name what lies at and below it (recursive statistics):
// absolute values. SumsTaken repeats them when they are durable there.
type Sums struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Bytes    uint64
	Files    uint64
	Subdirs  uint64
	Ctime    Time
}

// SumsTaken answers Sums.
type SumsTaken struct {
	_msgpack struct{} `msgpack:",as_array"`
	Sums     Sums
}

// Far says in a Reply that what a name leads to is inode Ino of Rank, whom to ask for the rest.
type Far struct {
	_msgpack struct{} `msgpack:",as_array"`
	Ino      Ino
	Rank     Rank
}

// WireType implements Message, as do the methods of the same name below.
func (*PeerHello) WireType() Type   { return TPeerHello }
func (*Export) WireType() Type      { return TExport }
func (*Imported) WireType() Type    { return TImported }
func (*ExportEnd) WireType() Type   { return TExportEnd }
func (*ExportAsk) WireType() Type   { return TExportAsk }
func (*ImportEnded) WireType() Type { return TImportEnded }
func (*GiveBack) WireType() Type    { return TGiveBack }
func (*Kept) WireType() Type        { return TKept }
func (*Sums) WireType() Type        { return TSums }
func (*SumsTaken) WireType() Type   { return TSumsTaken }
