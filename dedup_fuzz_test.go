package mailtrapwebhook_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// A modelDeduplicator is what MemoryDeduplicator must amount to, with nothing done for speed or memory: every mark in
// one slice, in the order in which they were set.
type modelDeduplicator struct {
	retention time.Duration
	maxKeys   int
	marks     []modelMark
}

type modelMark struct {
	key     string
	handled bool
	end     time.Time
}

func (m *modelDeduplicator) Reserve(keys []string, lease time.Duration) []mw.Reservation {
	m.expire()
	answers := []mw.Reservation{}
	for _, key := range keys {
		i := slices.IndexFunc(m.marks, func(k modelMark) bool { return k.key == key })
		switch {
		case i < 0:
			m.marks = append(m.marks, modelMark{key, false, time.Now().Add(lease)})
			answers = append(answers, mw.Reserved)
		case m.marks[i].handled:
			answers = append(answers, mw.Handled)
		default:
			answers = append(answers, mw.Held)
		}
	}
	return answers
}

func (m *modelDeduplicator) Commit(keys []string) {
	m.expire()
	for _, key := range keys {
		m.marks = slices.DeleteFunc(m.marks, func(k modelMark) bool { return k.key == key })
		m.marks = append(m.marks, modelMark{key, true, time.Now().Add(m.retention)})
		m.evict()
	}
}

func (m *modelDeduplicator) Release(keys []string) {
	m.marks = slices.DeleteFunc(m.marks, func(k modelMark) bool { return !k.handled && slices.Contains(keys, k.key) })
}

func (m *modelDeduplicator) expire() {
	m.marks = slices.DeleteFunc(m.marks, func(k modelMark) bool { return !time.Now().Before(k.end) })
}

func (m *modelDeduplicator) evict() {
	isHandled := func(k modelMark) bool { return k.handled }
	n := 0
	for _, k := range m.marks {
		if k.handled {
			n++
		}
	}
	if n > m.maxKeys {
		i := slices.IndexFunc(m.marks, isHandled)
		m.marks = slices.Delete(m.marks, i, i+1)
	}
}

// FuzzMemoryDeduplicator reads operations from its input, applies them to a store and to the model, and compares every
// answer, those about all keys at the end included.
func FuzzMemoryDeduplicator(f *testing.F) {
	f.Add(uint8(3), []byte("\x00\x01\x02\x03 reserve, commit, wait"))
	random := rand.New(rand.NewPCG(1, 2))
	for range 100 {
		ops := make([]byte, 300)
		for i := range ops {
			ops[i] = byte(random.Uint32())
		}
		f.Add(uint8(random.UintN(8)), ops)
	}
	f.Fuzz(func(t *testing.T, maxKeys uint8, ops []byte) {
		synctest.Test(t, func(t *testing.T) {
			compareWithModel(t, 1+int(maxKeys%8), ops)
		})
	})
}

func compareWithModel(t *testing.T, maxKeys int, ops []byte) {
	const retention = 20 * time.Second
	d := mw.NewMemoryDeduplicator(retention, maxKeys)
	m := &modelDeduplicator{retention: retention, maxKeys: maxKeys}
	reserve := func(keys []string, lease time.Duration) {
		got, err := d.Reserve(t.Context(), keys, lease)
		require.NoError(t, err)
		if diff := cmp.Diff(m.Reserve(keys, lease), got); diff != "" {
			t.Fatalf("Reserve(%q, %v) (-want +got):\n%s", keys, lease, diff)
		}
	}
	for len(ops) >= 3 {
		op, keys := ops[0], keysOf(ops[1], ops[2])
		ops = ops[3:]
		switch argument := time.Duration(op / 4); op % 4 {
		case 0:
			reserve(keys, (1+argument%16)*time.Second)
		case 1:
			require.NoError(t, d.Commit(t.Context(), keys))
			m.Commit(keys)
		case 2:
			require.NoError(t, d.Release(t.Context(), keys))
			m.Release(keys)
		case 3:
			time.Sleep(argument % 16 * time.Second / 2)
		}
	}
	reserve(keysOf(0xff, 0xff), time.Second)
}

// keysOf returns a key for each bit that is set in a, and again for each in b, so that a call may have equal ones.
func keysOf(a, b byte) []string {
	keys := []string{}
	for _, bits := range []byte{a, b & 0x3f} {
		for i := range 8 {
			if bits>>i&1 != 0 {
				keys = append(keys, string(rune('a'+i)))
			}
		}
	}
	return keys
}
