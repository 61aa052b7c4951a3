package wire

import (
	"errors"
	"fmt"
	"reflect"
	"runtime"
)

// Type identifies a message in a frame header. Each conversation has its block of numbers
// and its file; a number is never given a second meaning.
type Type uint16

// Blocks of message types.
const (
	BaseCommon Type = 0x000 // hello, acks, errors: hello.go
	BaseMon    Type = 0x100 // daemons and clients with the monitors: mon.go
	BaseOSD    Type = 0x200 // object operations and replication: osd.go
	BaseMDS    Type = 0x300 // clients with ranks: mds.go
	BasePeer   Type = 0x400 // ranks with ranks
)

// Message is anything that travels as the front of a frame. Its struct encodes as a msgpack
// array (field `_msgpack struct{}` with tag `msgpack:",as_array"`), behind one version byte.
type Message interface {
	WireType() Type
}

// Versioned is a Message whose encoding is newer than version 1.
type Versioned interface {
	WireVersion() byte
}

// ErrUnknownType and ErrVersion are what Decode wraps for a frame from a newer or broken peer.
var (
	ErrUnknownType = errors.New("unknown message type")
	ErrVersion     = errors.New("unknown record version")
)

type entry struct {
	name string
	make func() Message
}

var registry = map[Type]entry{}

// Register makes a message type known to Decode; called from init of the conversation's file.
func Register[T any, P interface {
	*T
	Message
}]() {
	t := P(new(T)).WireType()
	if e, dup := registry[t]; dup {
		panic(fmt.Sprintf("wire: type %#x registered twice: %s and %T", t, e.name, *new(T)))
	}
	registry[t] = entry{fmt.Sprintf("%T", *new(T)), func() Message { return P(new(T)) }}
}

// Types lists all registered types, for tests that go over all of them.
func Types() map[Type]func() Message {
	m := make(map[Type]func() Message, len(registry))
	for t, e := range registry {
		m[t] = e.make
	}
	return m
}

func (t Type) String() string {
	if e, ok := registry[t]; ok {
		return e.name
	}
	return fmt.Sprintf("type%#x", uint16(t))
}

func versionOf(m any) byte {
	if v, ok := m.(Versioned); ok {
		return v.WireVersion()
	}
	return 1
}

// Append appends m's version byte and msgpack array to dst; m is a pointer, or a value (slower).
// It panics for types that have no encoding, which is a bug found by the first test that sends
// one. The error is always nil.
func Append(dst []byte, m any) ([]byte, error) {
	v := reflect.ValueOf(m)
	if v.Kind() != reflect.Pointer {
		p := reflect.New(v.Type())
		p.Elem().Set(v)
		v = p
	}
	dst = shapeOf(v.Type().Elem()).encode(append(dst, versionOf(m)), v.UnsafePointer())
	runtime.KeepAlive(m)
	return dst, nil
}

// Decode makes the message of type t from its front.
func Decode(t Type, front []byte) (Message, error) {
	e, ok := registry[t]
	if !ok {
		return nil, fmt.Errorf("wire: %w %#x", ErrUnknownType, uint16(t))
	}
	m := e.make()
	if err := Unmarshal(front, m); err != nil {
		return nil, err
	}
	return m, nil
}

// Unmarshal reads what Append wrote into m, a pointer: used for messages and for records on
// disk alike. It refuses an unknown version byte, bytes that are not exactly one record of
// m's type, and bytes left over.
func Unmarshal(b []byte, m any) error {
	if len(b) == 0 {
		return fmt.Errorf("wire: decode %T: empty", m)
	}
	if v := versionOf(m); b[0] != v {
		return fmt.Errorf("wire: decode %T: %w %d (this program knows %d)", m, ErrVersion, b[0], v)
	}
	v := reflect.ValueOf(m)
	sh := shapeOf(v.Type().Elem())
	rest, err := sh.check(b[1:])
	if err != nil {
		return fmt.Errorf("wire: decode %T: %w", m, err)
	}
	if len(rest) != 0 {
		return fmt.Errorf("wire: decode %T: %d bytes left over", m, len(rest))
	}
	sh.decode(b[1:], v.UnsafePointer())
	runtime.KeepAlive(m)
	return nil
}
