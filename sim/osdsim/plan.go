package osdsim

import (
	"math/rand/v2"
	"slices"

	"github.com/capstan-fs/capstan/mon"
)

// A plan is what a run draws before it begins: how large the cluster is, what the clients do,
// how impatient the monitors are, which bad things happen how often.
//
// An even mixture of everything finds little: the shapes in which the rules of the protocol
// earn their place are narrow, a few steps in one order within one lease. So each class leans
// towards one of them, and draws the rest.
type plan struct {
	osds      int
	pgs       uint32
	nclients  int
	objects   int
	mix       [5]int  // of kinds of operations
	pace      int64   // rest of a client between two operations, mostly
	rest      int64   // and sometimes
	readers   bool    // some clients read with old maps, others write with new ones
	anyRead   float64 // of reads: asked of any member
	rotAll    float64 // of what rots: does so on every OSD
	fetched   float64 // of reads: their bytes come later, from a disk that takes its time
	faultTime int64
	set       mon.Settings

	loss    float64 // of messages
	lateMsg float64 // a message takes long
	lateMap float64 // a map takes long
	lateCAS float64 // a proposal takes very long
	stats   int64   // OSDs' signs of life
	awayMin int64   // a crashed OSD comes back
	awayMax int64

	weight [bads]int // of each bad thing
	calm   int64     // longest time between two

	killAtFix    float64 // a member dies when it has handed a cut to its store
	killAtRepl   float64 // a primary dies having sent an entry to some
	killAtCommit float64 // an OSD dies between two transactions
	killAtSplit  float64 // an OSD dies when it has divided its PGs
	cutAtSplit   float64 // a primary is cut off from all but clients when its PG divides
	cutAtAdd     float64 // a primary is cut off having proposed an addition
	cutAtBoot    float64 // a primary loses the monitors when one returns that comes before it
}

type class struct {
	name string
	lean func(w *World)
}

// Classes of runs; seed n plays class n mod their number.
var classes = []class{
	{"mixture", func(w *World) {
		w.osds, w.pgs, w.objects, w.faultTime = 4, 2, 5, 15*second
	}},
	{"small", func(w *World) {
		w.objects, w.nclients = 2, 2
	}},
	// R8: tails that differ, cut under members that die in the middle of it and are back before
	// they are dropped, so that nobody copies them whole.
	{"cut", func(w *World) {
		w.objects, w.pace, w.rest = 3, 60*ms, 200*ms
		w.mix = [5]int{1, 8, 0, 0, 2}
		w.killAtRepl, w.killAtFix, w.killAtCommit = 0.03, 0.8, 0
		w.set.OSDBroken, w.set.DropGrace = 20*ms, 4*second
		w.awayMin, w.awayMax = 150*ms, 1500*ms
		w.calm = 4 * second
		w.only(bSuspect, bCrash)
	}},
	// R5, R6, R7: a primary that has lost the monitors and some of its members, but not all, and
	// not those who read with old maps.
	{"lease", func(w *World) {
		w.readers, w.objects, w.nclients, w.rest = true, 8, 5, 300*ms
		w.mix = [5]int{1, 3, 6, 0, 0}
		w.set.OSDSilence, w.set.DropGrace = 600*ms, 50*ms
		w.stats, w.lateMap, w.lateMsg, w.loss = 200*ms, 0.05, 0.002, 0
		w.killAtRepl, w.killAtCommit = 0, 0
		w.calm = 4 * second
		w.only(bHalf, bFreeze, bIsolate)
		w.weight[bHalf] += 15
	}},
	// R9: members come back, are filled and added, while primaries are cut off at that moment.
	// An emptied store has given no lease even at its boot (R2): it need not wait for any.
	{"addition", func(w *World) {
		w.readers, w.objects, w.nclients, w.rest = true, 8, 5, 300*ms
		w.mix = [5]int{1, 3, 6, 0, 0}
		w.set.OSDSilence, w.set.OSDBroken, w.set.DropGrace = 400*ms, 50*ms, 50*ms
		w.stats, w.lateMap, w.lateMsg, w.loss = 150*ms, 0.02, 0.002, 0
		w.killAtRepl, w.killAtCommit = 0, 0
		w.awayMin, w.awayMax = 400*ms, 2500*ms
		w.calm = 4 * second
		w.cutAtBoot = 0.8
		w.cutAtAdd = []float64{0, 0.5}[w.rng.IntN(2)]
		w.only(bCrash, bDisk)
		w.weight[bDisk] += 10
	}},
	// R1, M4: disks are lost and replaced, and monitors hear of it late.
	{"disk", func(w *World) {
		w.set.OSDBroken = []int64{50 * ms, second, 3 * second}[w.rng.IntN(3)]
		w.only(bDisk, bCrash)
		w.weight[bDisk] += 5
		w.pace = 150 * ms
	}},
	// M1, M5: leaders change, proposals arrive late, many are down at once.
	{"monitors", func(w *World) {
		w.lateCAS, w.lateMap = 0.4, 0.4
		w.set.DropGrace = 100 * ms
		w.only(bLeader, bSuspect, bPower, bCrash, bPlace)
	}},
	// Bytes that go bad under reads, writes, scrubs and changes of members; slow disks.
	{"rot", func(w *World) {
		w.objects, w.nclients = 3, 4
		w.mix = [5]int{3, 8, 1, 0, 1}
		w.pace, w.rest, w.calm = 60*ms, 300*ms, 500*ms
		w.only(bRot, bScrub, bCrash, bSlow, bSuspect, bDisk, bDrift)
		w.lateMsg = 0.1 // a scrub's copy is overtaken by a write
		w.weight[bRot] += 15
		w.rotAll = 0.04
		w.weight[bScrub] += 6
		w.weight[bDisk] = 1
	}},
	// Recovery by log: primaries die with a tail that only they have, are dropped, and are back
	// before the log has gone on too far.
	{"return", func(w *World) {
		w.objects, w.nclients = 8, 4
		w.mix = [5]int{2, 8, 2, 0, 2}
		w.pace, w.rest, w.calm = 300*ms, 800*ms, 2*second
		w.killAtRepl, w.killAtCommit, w.killAtFix = 0.08, 0.002, 0
		w.set.OSDBroken, w.set.DropGrace = 20*ms, 50*ms
		w.awayMin, w.awayMax = 400*ms, 2*second
		w.only(bCrash, bSuspect, bSlow)
	}},
	// The balancer moves PGs and OSDs are drained, under everything else.
	{"moves", func(w *World) {
		w.osds, w.pgs, w.objects, w.faultTime = 5, 3, 6, 15*second
		w.pace = 150 * ms
		w.only(bMove, bPlace, bCrash, bSlow, bRot, bSuspect, bIsolate, bDrift)
		w.weight[bMove] += 10
		w.weight[bPlace] += 4
	}},
	// Reads at members that are cut off from their primary, or with it from the rest, while others
	// write and maps spread slowly.
	{"members", func(w *World) {
		w.readers, w.objects, w.nclients, w.rest = true, 6, 6, 300*ms
		w.mix = [5]int{2, 4, 5, 1, 0}
		w.set.OSDSilence, w.set.DropGrace = 500*ms, 50*ms
		w.stats, w.lateMap, w.lateMsg, w.loss = 150*ms, 0.05, 0.005, 0
		w.killAtRepl, w.killAtCommit = 0, 0
		w.calm, w.anyRead = 3*second, 0.9
		w.only(bHalf, bFreeze, bIsolate, bCut, bCrash, bFence)
		w.weight[bHalf] += 5
		w.weight[bIsolate] += 8
	}},
	// Reads whose bytes come later than they were allowed: behind writes, cuts, splits, other
	// primaries and rot.
	{"fetched", func(w *World) {
		w.osds, w.objects, w.nclients, w.rest = 3+w.rng.IntN(2), 4, 5, 300*ms
		w.mix = [5]int{7, 6, 3, 1, 1}
		w.pace, w.calm, w.anyRead = 60*ms, second, 0.5
		w.set.OSDSilence, w.set.DropGrace = 500*ms, 50*ms
		w.fetched = []float64{0.3, 0.8}[w.rng.IntN(2)]
		w.only(bGrow, bRot, bHalf, bFreeze, bCrash, bSuspect, bMove, bFence)
		w.weight[bRot] += 5
		w.awayMin, w.awayMax = 100*ms, 2*second
	}},
	// I5, I6: clients that do not get their answers, and clients that are fenced.
	{"fence", func(w *World) {
		w.nclients, w.objects = 4, 3
		w.pace, w.rest, w.lateMap = 30*ms, 200*ms, 0.5
		w.calm = second
		w.only(bFence, bDeaf, bCrash, bDisk)
		w.weight[bFence] += 10
	}},
	// PGs divide under everything else: OSDs hear of it late, die before and after, are away, and
	// what a client sends again was done before the split.
	{"split", func(w *World) {
		w.osds, w.objects, w.nclients, w.faultTime = 3+w.rng.IntN(2), 6, 4, 15*second
		w.mix = [5]int{3, 8, 1, 0, 2}
		w.pace, w.rest, w.calm = 80*ms, 400*ms, second
		w.lateMap = 0.3
		w.only(bGrow, bCrash, bSuspect, bDeaf, bFreeze, bSlow, bIsolate, bFence)
		w.weight[bGrow] += 20
		w.killAtSplit = 0.25
		if w.dice(0.4) { // R7: a primary that does not hear of it, and those who read there
			w.readers, w.objects, w.nclients, w.rest = true, 8, 5, 300*ms
			w.mix = [5]int{1, 3, 6, 0, 0}
			w.set.OSDSilence, w.set.DropGrace = 400*ms, 50*ms
			w.stats, w.lateMap, w.lateMsg, w.loss = 150*ms, 0.02, 0.002, 0
			w.killAtSplit, w.cutAtSplit, w.calm = 0, 0.8, 3*second
			w.only(bGrow, bCrash)
		}
		w.awayMin, w.awayMax = 50*ms, 2*second
	}},
}

// drawPlan: first what all classes share, then what the class says.
func (w *World) drawPlan() {
	w.plan = plan{osds: 3, pgs: 1, nclients: 3, objects: 4, mix: [5]int{6, 5, 3, 1, 3}, pace: 400 * ms, rest: 2 * second, faultTime: 10 * second,
		loss:    []float64{0, 0.002, 0.02}[w.rng.IntN(3)],
		lateMsg: []float64{0.002, 0.02}[w.rng.IntN(2)],
		lateMap: []float64{0.02, 0.2}[w.rng.IntN(2)],
		stats:   300 * ms, awayMin: 50 * ms, awayMax: 6 * second,
		calm:         []int64{700 * ms, 2 * second, 4 * second}[w.rng.IntN(3)],
		killAtFix:    []float64{0, 0.5}[w.rng.IntN(2)],
		killAtRepl:   []float64{0, 0, 0.004, 0.02}[w.rng.IntN(4)],
		killAtCommit: []float64{0, 0, 0.001, 0.01}[w.rng.IntN(4)],
		cutAtAdd:     []float64{0, 0, 0.5}[w.rng.IntN(3)],
		lateCAS:      []float64{0, 0.1}[w.rng.IntN(2)],
	}
	// Drawn apart, and by a stream under which the seeds of the faults (sim_test.go) that were known
	// before there were such reads have none: so they stay.
	w.anyRead = []float64{0, 0, 0.4, 0.9}[rand.New(rand.NewPCG(w.opt.Seed, 10473)).IntN(4)]
	c := w.class()
	if c.name == "members" {
		w.rng.IntN(4) // for the seeds of that class, which were found with one more draw
	}
	for i := range w.weight[:bGrow] { // that one is a class of its own
		if w.dice(0.6) {
			w.weight[i] = w.rng.IntN(10)
		}
	}
	w.weight[bPower] /= 4
	w.weight[bLeader] /= 2
	w.weight[w.rng.IntN(bGrow)] += 3
	set := &w.set
	*set = mon.Defaults()
	set.CreateWait, set.UsageEvery = 3600*second, 3600*second
	set.BalanceWait, set.FlapBoots = 0, 0 // PGs do not move for balance here: mon has tests of that
	set.OSDSilence = []int64{second, 3 * second}[w.rng.IntN(2)]
	set.OSDBroken = []int64{50 * ms, second}[w.rng.IntN(2)]
	set.DropGrace = []int64{50 * ms, second, 3 * second}[w.rng.IntN(3)]
	set.Cold = []int64{200 * ms, 4 * second}[w.rng.IntN(2)]
	set.OutAfter = []int64{3 * second, 600 * second}[w.rng.IntN(2)]
	c.lean(w)
	if w.opt.Balance {
		w.leanBalance()
	}
	w.res.Class = c.name
}

// class of the run: by name or, without one, of the seed.
func (w *World) class() class {
	i := slices.IndexFunc(classes, func(c class) bool { return c.name == w.opt.Class })
	if i < 0 {
		i = int(w.opt.Seed % uint64(len(classes)))
	}
	return classes[i]
}

// only leaves these bad things, each at least sometimes.
func (w *World) only(kinds ...int) {
	for i := range w.weight {
		if !slices.Contains(kinds, i) {
			w.weight[i] = 0
		} else {
			w.weight[i] += 2
		}
	}
}
