package mailtrapwebhook_test

import (
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	mw "github.com/mailtrapwebhook/mailtrapwebhook"
)

// A storeModel knows what a store must and must not remember. Between the two
// it believes the store.
type storeModel struct {
	retention time.Duration
	maxKeys   int
	leases    map[string]time.Time
	marks     map[string]*storeMark
}

// A storeMark is a handled key, with the keys that were committed after it.
type storeMark struct {
	since time.Time
	later map[string]bool
}

// judge reports what is wrong with an answer for key.
func (m *storeModel) judge(key string, got mw.Reservation, lease time.Duration) string {
	mark := m.marks[key]
	must := mark != nil && time.Since(mark.since) < m.retention && len(mark.later) <= m.maxKeys
	may := mark != nil && time.Since(mark.since) < 2*m.retention && len(mark.later) < 2*m.maxKeys
	switch end, leased := m.leases[key]; {
	case got == handled && !may:
		return "remembered for too long, or never handled"
	case got == handled:
		return ""
	case must:
		return "forgotten too early"
	case (got == held) != (leased && time.Now().Before(end)):
		return "the lease is not as it should be"
	}
	delete(m.marks, key) // the store has forgotten it, and must not remember it again
	if got == reserved {
		m.leases[key] = time.Now().Add(lease)
	}
	return ""
}

func (m *storeModel) commit(keys []string) {
	for _, key := range keys {
		delete(m.leases, key)
		for other, mark := range m.marks {
			if other != key {
				mark.later[key] = true
			}
		}
		m.marks[key] = &storeMark{time.Now(), make(map[string]bool)}
	}
}

func (m *storeModel) release(keys []string) {
	for _, key := range keys {
		delete(m.leases, key)
	}
}

// FuzzMemoryDeduplicator reads operations from its input, applies them to a
// store and to the model, and judges every answer.
func FuzzMemoryDeduplicator(f *testing.F) {
	f.Add(uint8(3), []byte("\x00\x01\x02\x03 reserve, commit, wait"))
	random := rand.New(rand.NewPCG(1, 2))
	for range 300 {
		ops := make([]byte, 400)
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
	const retention = 10 * time.Second
	d := &mw.MemoryDeduplicator{Retention: retention, MaxKeys: maxKeys}
	m := &storeModel{retention, maxKeys, make(map[string]time.Time), make(map[string]*storeMark)}
	reserve := func(keys []string, lease time.Duration) {
		got, err := d.Reserve(t.Context(), keys, lease)
		require.NoError(t, err)
		require.Len(t, got, len(keys))
		for i, key := range keys {
			if wrong := m.judge(key, got[i], lease); wrong != "" {
				t.Fatalf("Reserve(%q, %v) = %v: %q: %s", keys, lease, got, key, wrong)
			}
		}
	}
	for len(ops) >= 4 {
		op, keys := ops[0], keysOf(ops[1], ops[2], ops[3])
		ops = ops[4:]
		switch argument := time.Duration(op / 8); op % 8 {
		case 0, 1, 2:
			reserve(keys, (1+argument)*time.Second)
		case 3, 4:
			require.NoError(t, d.Commit(t.Context(), keys))
			m.commit(keys)
		case 5:
			require.NoError(t, d.Release(t.Context(), keys))
			m.release(keys)
		default:
			time.Sleep(argument * time.Second / 2)
		}
	}
	reserve(keysOf(0xff, 0xff, 0xff), time.Second)
}

// keysOf returns at most 24 keys, one for each bit that is set.
func keysOf(sets ...byte) []string {
	keys := []string{}
	for i, set := range sets {
		for bit := range 8 {
			// Of the last byte the keys are those of the first, so that a call
			// may have equal ones.
			if set>>bit&1 != 0 {
				keys = append(keys, string(rune('a'+8*(i%2)+bit)))
			}
		}
	}
	return keys
}
