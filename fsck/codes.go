package fsck

import (
	"fmt"
	"io"
	"slices"
)

// Code names a kind of damage. Codes keep their meaning; new ones may come.
type Code string

// The codes. What each means and what --repair does about it is in Codes.
const (
	JournalDamaged   Code = "JOURNAL_DAMAGED"
	JournalLeftover  Code = "JOURNAL_LEFTOVER"
	DentryUnreadable Code = "DENTRY_UNREADABLE"
	HeaderUnreadable Code = "HEADER_UNREADABLE"
	SystemMissing    Code = "SYSTEM_DIR_MISSING"
	InodeTwice       Code = "INODE_TWICE"
	NameDangling     Code = "NAME_DANGLING"
	HomeMisplaced    Code = "HOME_MISPLACED"
	InodeUnnamed     Code = "INODE_UNNAMED"
	DirLoop          Code = "DIR_LOOP"
	DirOrphan        Code = "DIR_ORPHAN"
	DirMissing       Code = "DIR_OBJECT_MISSING"
	LinkCount        Code = "LINK_COUNT"
	BackPointers     Code = "BACK_POINTERS"
	TypeWrong        Code = "TYPE_WRONG"
	CookieTwice      Code = "COOKIE_TWICE"
	DirCounts        Code = "DIR_COUNTS"
	DirVersion       Code = "DIR_VERSION"
	RstatCharge      Code = "RSTAT_CHARGE"
	RstatSums        Code = "RSTAT_SUMS"
	RstatStale       Code = "RSTAT_STALE"
	DataOrphan       Code = "DATA_ORPHAN"
	DataBeyond       Code = "DATA_BEYOND_SIZE"
	CutForgotten     Code = "CUT_FORGOTTEN"
	IndexWrong       Code = "INDEX_WRONG"
	IndexStale       Code = "INDEX_STALE"
	InoAboveTable    Code = "INO_ABOVE_TABLE"
	ObjectUnknown    Code = "OBJECT_UNKNOWN"
)

// CodeInfo explains a code.
type CodeInfo struct {
	Code   Code
	Means  string
	Repair string // "": nothing, it is left
}

// Codes is the table of docs/fsck.md, in the order in which things are looked at.
var Codes = []CodeInfo{
	{JournalDamaged, "The rank's journal cannot be read, or has lost records that were durable once. Nothing else is judged.", ""},
	{DentryUnreadable, "A name's record cannot be read: the rank stops when it meets it.", "the record goes into the undo log and the name away; what it led to is found as an orphan"},
	{HeaderUnreadable, "The header of a directory's object is missing or cannot be read: the rank stops when it meets it.", "made anew from the names"},
	{SystemMissing, "The base directory lacks the root, a links or a stray directory.", "its name is made again; what lies in it is there still"},
	{InodeTwice, "Two names embed the same inode: each would show changes of its own.", "the newer record stays, the other name becomes one more name of it (of a file) or goes (of a directory)"},
	{NameDangling, "A name leads to an inode that is nowhere.", "the name goes"},
	{HomeMisplaced, "An inode with several names does not live in its links directory, or one in a links or stray directory is filed under another number.", "moved to where it belongs"},
	{InodeUnnamed, "An inode in a links directory has no name that leads to it.", "gets a name in /lost+found"},
	{DirLoop, "A directory lies below itself: nothing leads to it from the root.", "one directory of the loop is moved to /lost+found"},
	{DirOrphan, "The object of a directory exists, but no name embeds that directory's inode.", "attached as /lost+found/NUMBER; an empty one is removed"},
	{DirMissing, "A directory has no object: its names are lost, and the rank shows it empty.", "an empty one is made"},
	{LinkCount, "An inode's link count is not the number of its names.", "set to the number"},
	{BackPointers, "The names that an inode lists are not those that lead to it.", "written anew"},
	{TypeWrong, "A name says another type than its inode.", "set to the inode's"},
	{CookieTwice, "Two names of a directory have the same place in listings: the rank stops when it meets them.", "the later name gets another"},
	{DirVersion, "A directory's version is lower than that of one of its names: newer records could be taken for older ones.", "raised"},
	{DirCounts, "A directory's counts of names and subdirectories are not those of what it holds.", "set to what it holds"},
	{RstatCharge, "A file with several names is not counted once, at the first of them, with its size.", "counted there"},
	{RstatSums, "The recursive statistics in a directory's header are not the sum of what its names count for.", "summed up anew"},
	{RstatStale, "The directory above counts something else for a directory than it holds, and nothing is under way to correct that.", "corrected, up to the root"},
	{DataOrphan, "Data objects belong to an inode that does not exist.", "a file of them is made as /lost+found/NUMBER"},
	{DataBeyond, "A file has data behind its size, where no client may write now: it would show when the file grows.", "cut off; the bytes go into the undo log"},
	{CutForgotten, "A truncate was begun and nobody will end it.", "ended"},
	{IndexWrong, "The index does not lead to an inode's home: handles of it that clients and NFS keep become stale.", "written anew"},
	{IndexStale, "The index has a line for an inode that does not exist.", "removed"},
	{InoAboveTable, "An inode number is in use that would be given out again.", "the table is raised above it (not undone by --undo: harmless)"},
	{JournalLeftover, "An object of the journal lies before its beginning: a trim was cut short.", "removed"},
	{ObjectUnknown, "The metadata pool holds an object that is none of the rank's.", ""},
}

func infoOf(c Code) CodeInfo {
	i := slices.IndexFunc(Codes, func(x CodeInfo) bool { return x.Code == c })
	return Codes[i]
}

// Finding is one thing that cannot be.
type Finding struct {
	Code     Code   `json:"code"`
	Subject  string `json:"subject"` // an inode, a name, an object: the same for the same damage
	Path     string `json:"path"`    // where it is in the tree, when it is
	What     string `json:"what"`
	Means    string `json:"means"`
	Repair   string `json:"repair"` // what --repair does; "": nothing
	Repaired bool   `json:"repaired"`

	fix func()
}

// Key tells findings apart over several readings.
func (f *Finding) Key() string { return string(f.Code) + " " + f.Subject }

// Text is the finding for people.
func (f *Finding) Text() string {
	s := fmt.Sprintf("%s %s", f.Code, f.Subject)
	if f.Path != "" {
		s += " (" + f.Path + ")"
	}
	s += ": " + f.What
	switch {
	case f.Repaired:
		s += ". Repaired: " + f.Repair
	case f.Repair != "":
		s += ". --repair: " + f.Repair
	}
	return s
}

// WriteCodes writes the table of docs/fsck.md.
func WriteCodes(w io.Writer) error {
	_, err := fmt.Fprint(w, "| code | what it means | what `--repair` does |\n|---|---|---|\n")
	for _, c := range Codes {
		r := c.Repair
		if r == "" {
			r = "nothing: it is left"
		}
		if err == nil {
			_, err = fmt.Fprintf(w, "| `%s` | %s | %s |\n", c.Code, c.Means, r)
		}
	}
	return err
}
