package locker

import "fmt"

// Msg is a lock message between the authoritative rank and a replica of one object (2.7).
type Msg uint8

// Messages. Those with Data carry the published value, those with Delta what a replica
// accumulated; the host adds and takes both.
const (
	NoMsg       Msg = iota
	MsgLock         // auth→replica: stop reading (and writing)
	MsgLockAck      // replica→auth, with delta when it was in mix
	MsgMix          // auth→replica: stop reading, mix comes
	MsgMixAck       //
	MsgMixData      // auth→replica: mix, here is the base
	MsgSync         // auth→replica: stop writing, sync comes
	MsgSyncAck      // with delta
	MsgSyncData     // auth→replica: sync, here is the value
	MsgFlushed      // auth→replica: forget the delta kept for crash safety
	MsgReqRd        // replica→auth: somebody here wants to read
	MsgReqWr        // replica→auth: somebody here wants to write
	MsgNudge        // replica→auth: absorb my delta
)

var msgNames = [...]string{"-", "lock", "lockack", "mix", "mixack", "mix+", "sync", "syncack", "sync+", "flushed",
	"reqrd", "reqwr", "nudge"}

func (m Msg) String() string {
	if int(m) < len(msgNames) {
		return msgNames[m]
	}
	return fmt.Sprintf("lockmsg%d", uint8(m))
}

// Data reports whether the message carries the published value.
func (m Msg) Data() bool { return m == MsgMixData || m == MsgSyncData }

func parseMsg(s string) (Msg, bool) {
	for i, n := range msgNames {
		if n == s {
			return Msg(i), true
		}
	}
	return NoMsg, false
}
