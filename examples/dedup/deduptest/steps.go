package deduptest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"github.com/mailtrapwebhook/mailtrapwebhook"
)

// A step calls a method of a replica.
type step struct {
	verb string
	keys string // separated by spaces
	want []mailtrapwebhook.Reservation
}

func reserving(keys string, want ...mailtrapwebhook.Reservation) step {
	return step{"reserve", keys, want}
}
func committing(keys string) step { return step{"commit", keys, nil} }
func releasing(keys string) step  { return step{"release", keys, nil} }

func testSteps(t *testing.T, s Store) {
	tests := []struct {
		name  string
		steps []step
	}{
		{"a free key is reserved, then held", []step{
			reserving("a", reserved), reserving("a", held), reserving("a", held),
		}},
		{"no keys, no answers", []step{
			reserving(""), committing(""), releasing(""),
		}},
		{"keys are answered one by one, in order", []step{
			reserving("b a", reserved, reserved), committing("a"), reserving("c b a d", reserved, held, handled, reserved),
		}},
		{"of equal keys in a call the first is reserved", []step{
			reserving("b a b b", reserved, reserved, held, held), reserving("a b", held, held),
		}},
		{"of equal handled keys in a call all are handled", []step{
			committing("a"), reserving("a b a", handled, reserved, handled),
		}},
		{"a released key is free", []step{
			reserving("a b", reserved, reserved), releasing("a"), reserving("a b", reserved, held),
		}},
		{"equal keys are committed and released as one", []step{
			reserving("a b", reserved, reserved), committing("a a"), releasing("b b"), reserving("a b", handled, reserved),
		}},
		{"a key can be released twice, and unseen", []step{
			reserving("a", reserved), releasing("a never"), releasing("a"), reserving("a never", reserved, reserved),
		}},
		{"releasing does not remove a handled mark", []step{
			reserving("a b", reserved, reserved), committing("a"), releasing("b a"), reserving("a b", handled, reserved),
		}},
		{"a commit counts without a reservation", []step{
			committing("a"), reserving("a", handled),
		}},
		{"a commit can be repeated", []step{
			reserving("a", reserved), committing("a"), committing("a"), reserving("a", handled),
		}},
		{"a commit counts after a release", []step{
			reserving("a", reserved), releasing("a"), committing("a"), reserving("a", handled),
		}},
		{"a commit counts after another's reservation", []step{
			reserving("a", reserved), releasing("a"), reserving("a", reserved), committing("a"), releasing("a"),
			reserving("a", handled),
		}},
	}
	var replicas []mailtrapwebhook.Deduplicator
	for range 2 { // they take turns
		d, _ := s.Replica(t)
		replicas = append(replicas, d)
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			for j, step := range tt.steps {
				d, keys := replicas[j%2], strings.Fields(step.keys)
				for k := range keys {
					keys[k] = fmt.Sprintf("%d-%s", i, keys[k])
				}
				switch step.verb {
				case "reserve":
					requireAnswers(t, d, keys, long, step.want...)
				case "commit":
					require.NoError(t, d.Commit(t.Context(), keys))
				case "release":
					require.NoError(t, d.Release(t.Context(), keys))
				}
			}
		})
	}
	t.Run("a lease that is not positive takes nothing", func(t *testing.T) {
		for _, lease := range []time.Duration{0, -1} {
			answers, err := replicas[0].Reserve(t.Context(), []string{"unleased"}, lease)
			require.ErrorContains(t, err, "lease")
			require.Nil(t, answers)
		}
		requireAnswers(t, replicas[0], []string{"unleased"}, long, reserved)
	})
	t.Run("the longest lease does not overflow", func(t *testing.T) {
		requireAnswers(t, replicas[0], []string{"longest"}, 1<<63-1, reserved)
		requireAnswers(t, replicas[1], []string{"longest"}, long, held)
	})
}

func requireAnswers(
	t *testing.T, d mailtrapwebhook.Deduplicator, keys []string, lease time.Duration, want ...mailtrapwebhook.Reservation,
) {
	t.Helper()
	got, err := d.Reserve(t.Context(), keys, lease)
	require.NoError(t, err)
	if len(got) != len(want) || len(got) > 0 && !cmp.Equal(want, got) {
		t.Fatalf("Reserve(%.200q) (-want +got):\n%s", keys, cmp.Diff(want, got))
	}
}

// repeat returns answer n times.
func repeat(answer mailtrapwebhook.Reservation, n int) []mailtrapwebhook.Reservation {
	answers := make([]mailtrapwebhook.Reservation, n)
	for i := range answers {
		answers[i] = answer
	}
	return answers
}

func numbered(name string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprintf("delivery/%s/%024d", name, i)
	}
	return keys
}

func testOddKeys(t *testing.T, s Store) {
	keys := []string{
		"a", "A", "a ", " a", "a\n", "a\x00", "a\x00b", "\x00", "\x00a", "\xff", "\xff\xfe", "\xc3", "\xc3\xa9", "e\xcc\x81",
		`\x61`, "61", "'", `"`, `\`, "{a}:b", "{b}:b", "}{", "*", "%", "_", "?", "$1", "NULL", "true", "{}", "[]", ",", "a,b",
		"tenant:a", "tenant:tenant:a", "\U0001f600", strings.Repeat("k", 300), strings.Repeat("k", 301),
	}
	d, _ := s.Replica(t)
	requireAnswers(t, d, keys, long, repeat(reserved, len(keys))...)
	require.NoError(t, d.Release(t.Context(), keys[:10]))
	require.NoError(t, d.Commit(t.Context(), keys[20:]))
	want := repeat(held, len(keys))
	copy(want, repeat(reserved, 10))
	copy(want[20:], repeat(handled, len(keys)-20))
	requireAnswers(t, d, keys, long, want...)
}

// testLargeBatch uses as many keys as a Handler's MaxEvents allows.
func testLargeBatch(t *testing.T, s Store) {
	keys := numbered("large", 10_000)
	d, _ := s.Replica(t)
	requireAnswers(t, d, keys, long, repeat(reserved, len(keys))...)
	require.NoError(t, d.Commit(t.Context(), keys[:5000]))
	require.NoError(t, d.Release(t.Context(), keys))
	requireAnswers(t, d, keys, long, append(repeat(handled, 5000), repeat(reserved, 5000)...)...)
}
