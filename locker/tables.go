package locker

// The tables are the specification (reference/locks-and-caps.md §2.2–2.7). Read a row aloud:
// "in sync any rank may rdlock, nobody may wrlock or xlock, every client may hold s."
//
// settles is the goal of a state in transit (. for a steady one), replica the state in which
// a copy is born meanwhile. get is looking at the newest value without a lock. Caps are
// totals per audience: all clients, the loner, the xlock holder, clients of a replica.
// next is the second stage of a transit. On entry auth sends tell to its replicas and awaits
// their acks; a replica that has drained in a row sends its ack and becomes acked. before is
// done before completion, flush is sent to the replicas at completion.
//
// A cell says - for none. Only steady and xlock rows are design; laws_test.go recomputes
// every other row from them (G1–G4, E1–E3).

// local orders versions. Nothing gathers, nothing is told.
var localTable = mustTable("local", `
state           settles   replica         get  rdlock wrlock xlock  all loner  holder repclients next       tell ack     acked           before flush
lock            .         -               any  -      auth   auth   -   -      -      -          -          -    -       -               -      -
`, ``)

// simple governs what many read and one changes: a dentry's link, an inode's mode, its
// xattrs. For dn read s as "dentry lease".
var simpleTable = mustTable("simple", `
state           settles   replica         get  rdlock wrlock xlock  all loner  holder repclients next       tell ack     acked           before flush
sync            .         sync            any  any    -      -      s   s      s      s          -          -    -       -               -      -
lock            .         lock            auth -      -      -      -   -      -      -          -          -    -       -               -      -
excl            .         lock            -    -      sole   -      -   sx     -      -          -          -    -       -               -      -
sync>lock       lock      lock            any  -      -      -      -   -      -      -          -          lock lockack lock            -      -
sync>excl       excl      lock            any  -      -      -      -   s      -      -          -          lock -       -               -      -
lock>sync       sync      lock            auth -      -      -      -   -      -      -          -          -    -       -               -      sync+
lock>excl       excl      lock            auth -      -      -      -   -      -      -          -          -    -       -               -      -
excl>sync       sync      lock            -    -      -      -      -   s      -      -          -          -    -       -               -      sync+
excl>lock       lock      lock            -    -      -      -      -   -      -      -          -          -    -       -               -      -
lock>xlock      prexlock  lock            -    -      -      -      -   -      -      -          -          -    -       -               -      -
prexlock        lock      lock            -    -      -      holder -   -      -      -          -          -    -       -               -      -
xlock           lock      lock            -    -      -      -      -   -      -      -          -          -    -       -               -      -
xlockdone       lock      lock            holder holder -    holder -   -      s      -          -          -    -       -               -      -
`, `
lock     sync  sync>lock
sync+    lock  sync
`)

// scatter governs aggregates over directory fragments: many ranks may each add to a delta of
// their own. No caps, no xlock.
var scatterTable = mustTable("scatter", `
state           settles   replica         get  rdlock wrlock xlock  all loner  holder repclients next       tell ack     acked           before flush
sync            .         sync            any  any    -      -      -   -      -      -          -          -    -       -               -      -
lock            .         lock            -    -      auth   -      -   -      -      -          -          -    -       -               -      -
mix             .         mix             -    -      any    -      -   -      -      -          -          -    -       -               -      -
tsyn            .         lock            auth auth   -      -      -   -      -      -          -          -    -       -               -      -
sync>lock       lock      lock            any  -      -      -      -   -      -      -          -          lock lockack lock            -      -
sync>mix        mix       sync>mix_acked  any  -      -      -      -   -      -      -          -          mix  mixack  sync>mix_acked  base   mix+
lock>sync       sync      lock            -    -      -      -      -   -      -      -          -          -    -       -               absorb sync+
lock>mix        mix       lock            -    -      auth   -      -   -      -      -          -          -    -       -               base   mix+
lock>tsyn       tsyn      lock            -    -      -      -      -   -      -      -          -          -    -       -               absorb -
mix>sync        sync      mix             -    -      -      -      -   -      -      -          mix>sync2  -    syncack mix>sync_acked  -      -
mix>sync2       sync      mix>sync_acked  -    -      -      -      -   -      -      -          -          sync -       -               absorb sync+
mix>lock        lock      mix             -    -      -      -      -   -      -      -          mix>lock2  -    lockack lock            -      -
mix>lock2       lock      lock            -    -      -      -      -   -      -      -          -          lock -       -               absorb flushed
mix>tsyn        tsyn      mix             -    -      -      -      -   -      -      -          mix>tsyn2  -    -       -               -      -
mix>tsyn2       tsyn      lock            -    -      -      -      -   -      -      -          -          lock -       -               absorb flushed
tsyn>lock       lock      lock            auth -      -      -      -   -      -      -          -          -    -       -               -      -
tsyn>mix        mix       lock            auth -      -      -      -   -      -      -          -          -    -       -               base   mix+
tsyn>sync       sync      lock            auth auth   -      -      -   -      -      -          -          -    -       -               absorb sync+
sync>mix_acked  mix       -               -    -      -      -      -   -      -      -          -          -    -       -               -      -
mix>sync_acked  sync      -               -    -      -      -      -   -      -      -          -          -    -       -               -      -
`, scatterReceive)

// file is scatter with an xlock and caps: size, mtime and data of a file, the set of entries
// of a directory.
var fileTable = mustTable("file", `
state           settles   replica         get  rdlock wrlock xlock  all loner  holder repclients next       tell ack     acked           before flush
sync            .         sync            any  any    -      -      scr scr    scr    scr        -          -    -       -               -      -
lock            .         lock            auth -      auth   -      c   c      c      -          -          -    -       -               -      -
mix             .         mix             -    -      any    -      rw  rw     rw     r          -          -    -       -               -      -
excl            .         lock            -    sole   sole   -      -   sxcrwb -      -          -          -    -       -               -      -
xsyn            .         lock            auth auth   -      -      -   cb     -      -          -          -    -       -               -      -
sync>lock       lock      lock            any  -      -      -      c   c      c      -          -          lock lockack lock            -      -
sync>mix        mix       sync>mix_acked  any  -      -      -      r   r      r      r          -          mix  mixack  sync>mix_acked  base   mix+
sync>excl       excl      lock            any  sole   -      -      -   scr    -      -          -          lock -       -               -      -
lock>sync       sync      lock            auth -      -      -      c   c      c      -          -          -    -       -               absorb sync+
lock>mix        mix       lock            auth -      auth   -      -   -      -      -          -          -    -       -               base   mix+
lock>excl       excl      lock            auth -      sole   -      -   c      -      -          -          -    -       -               -      -
mix>sync        sync      mix             -    -      -      -      r   r      r      r          mix>sync2  -    syncack mix>sync_acked  -      -
mix>sync2       sync      mix>sync_acked  -    -      -      -      r   r      r      r          -          sync -       -               absorb sync+
mix>lock        lock      mix             -    -      -      -      -   -      -      -          mix>lock2  -    lockack lock            -      -
mix>lock2       lock      lock            -    -      -      -      -   -      -      -          -          lock -       -               absorb flushed
mix>excl        excl      mix             -    -      -      -      -   rw     -      -          mix>excl2  -    -       -               -      -
mix>excl2       excl      lock            -    -      -      -      -   rw     -      -          -          lock -       -               absorb flushed
excl>sync       sync      lock            -    sole   -      -      -   scr    -      -          -          -    -       -               absorb sync+
excl>lock       lock      lock            -    -      sole   -      -   c      -      -          -          -    -       -               -      -
excl>mix        mix       lock            -    -      sole   -      -   rw     -      -          -          -    -       -               base   mix+
excl>xsyn       xsyn      lock            -    sole   -      -      -   cb     -      -          -          -    -       -               -      -
xsyn>sync       sync      lock            auth auth   -      -      -   c      -      -          -          -    -       -               absorb sync+
xsyn>lock       lock      lock            auth -      -      -      -   c      -      -          -          -    -       -               -      -
xsyn>excl       excl      lock            auth sole   -      -      -   cb     -      -          -          -    -       -               -      -
sync>mix_acked  mix       -               -    -      -      -      r   -      -      r          -          -    -       -               -      -
mix>sync_acked  sync      -               -    -      -      -      r   -      -      r          -          -    -       -               -      -
lock>xlock      prexlock  lock            -    -      -      -      c   c      c      -          -          -    -       -               -      -
prexlock        lock      lock            -    -      -      holder c   c      c      -          -          -    -       -               -      -
xlock           lock      lock            -    -      -      -      c   c      c      -          -          -    -       -               -      -
xlockdone       lock      lock            holder holder -    holder c   c      sc     -          -          -    -       -               -      -
`, scatterReceive)

// scatterReceive is what a replica makes of a message (§2.7): message, state it must be in,
// state it enters. Any other pair is a protocol error.
const scatterReceive = `
lock     sync            sync>lock
lock     mix             mix>lock
mix      sync            sync>mix
mix+     sync>mix_acked  mix
mix+     lock            mix
sync     mix             mix>sync
sync+    mix>sync_acked  sync
sync+    lock            sync
flushed  any             same
`
