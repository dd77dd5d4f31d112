package mailtrapwebhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"maps"
	"strings"

	"github.com/mailtrapwebhook/mailtrapwebhook/internal/jsonscan"
)

// Variables are the custom variables of an email: the checked text of a JSON
// object, which the methods read on demand. "" means no variables.
//
// Mailtrap allows 1,000 bytes, and values that are strings, numbers or
// booleans. Names match exactly. Of two equal names the last counts. Text that
// is not a JSON object reads as no variables; decoded events never hold such.
type Variables string

// Get returns the value of a variable: a string, a bool or a [json.Number].
// An undocumented value is nil, a []any or a map[string]any.
//
// A number is a [json.Number], which keeps all digits, and never a float64.
// Write v.(json.Number).Int64() instead of v.(float64).
func (v Variables) Get(name string) (value any, ok bool) {
	text, ok := object(v).find(name)
	if !ok {
		return nil, false
	}
	return decodeAny(text), true
}

// Text returns the value of a variable as text: a string as it is, a number
// with all its digits, "true" or "false", and an array or object as JSON. It
// returns "" for null and for a variable that is missing.
func (v Variables) Text(name string) string {
	text, _ := object(v).find(name)
	switch {
	case text == "null":
		return ""
	case strings.HasPrefix(text, `"`):
		s, _ := decodeAny(text).(string)
		return s
	}
	return text
}

// All returns the variables in their order in the text, each name once.
func (v Variables) All() iter.Seq2[string, any] { return all(object(v), decodeAny) }

// Map returns the variables in a new map.
func (v Variables) Map() map[string]any { return maps.Collect(v.All()) }

// Decode stores the variables in the value that dst points to, as
// [json.Unmarshal] does. It changes nothing if there are none.
func (v Variables) Decode(dst any) error {
	if v == "" {
		return nil
	}
	err := json.Unmarshal([]byte(v), dst)
	// The texts of these errors quote the variables, which may be personal.
	// Only a pointer that cannot be used is about the program alone.
	switch err := err.(type) {
	case nil:
		return nil
	case *json.SyntaxError:
		return errors.New("mailtrapwebhook: the custom variables are not JSON")
	case *json.InvalidUnmarshalError:
		return fmt.Errorf("mailtrapwebhook: cannot decode the custom variables: %w", err)
	case *json.UnmarshalTypeError:
		return fmt.Errorf("mailtrapwebhook: a custom variable does not fit a Go %v: decode it into an any", err.Type)
	}
	return errors.New("mailtrapwebhook: a custom variable does not fit its Go type: decode it into an any")
}

// MarshalJSON implements [json.Marshaler]. No variables are null.
func (v Variables) MarshalJSON() ([]byte, error) { return object(v).marshal() }

// UnmarshalJSON implements [json.Unmarshaler]. It accepts an object or null.
func (v *Variables) UnmarshalJSON(data []byte) error {
	return unmarshalObject(data, (*string)(v), "custom variables")
}

// Changes are what an audit-log entry says has changed: the checked text of a
// JSON object, which the methods read on demand. "" means no changes.
//
// Attributes match exactly. Of two equal attributes the last counts. A change
// that is not an object reads as the zero [Change].
type Changes string

// A Change is the value of an attribute before and after.
//
// The values have the types that [json.Unmarshal] gives an any, except that a
// number is a [json.Number]. Mailtrap writes "[FILTERED]" for private values.
type Change struct {
	From any `json:"from"`
	To   any `json:"to"`
}

// Get returns the change of an attribute.
func (c Changes) Get(attribute string) (change Change, ok bool) {
	text, ok := object(c).find(attribute)
	if !ok {
		return Change{}, false
	}
	return decodeChange(text), true
}

// All returns the changes in their order in the text, each attribute once.
func (c Changes) All() iter.Seq2[string, Change] { return all(object(c), decodeChange) }

// Map returns the changes in a new map.
func (c Changes) Map() map[string]Change { return maps.Collect(c.All()) }

// MarshalJSON implements [json.Marshaler]. No changes are null.
func (c Changes) MarshalJSON() ([]byte, error) { return object(c).marshal() }

// UnmarshalJSON implements [json.Unmarshaler]. It accepts an object or null.
func (c *Changes) UnmarshalJSON(data []byte) error {
	return unmarshalObject(data, (*string)(c), "changes")
}

func decodeChange(text string) Change {
	// encoding/json would also match keys such as "FROM".
	from, _ := object(text).find("from")
	to, _ := object(text).find("to")
	return Change{decodeAny(from), decodeAny(to)}
}

// An object is the text of a JSON object.
type object string

// find returns the text of the last member of that name.
func (o object) find(name string) (text string, ok bool) {
	valid := jsonscan.Each(string(o), func(key, value string) {
		if key == name {
			text, ok = value, true
		}
	})
	if !valid {
		return "", false
	}
	return text, ok
}

// all returns the members of o in order, each name once, with their values
// decoded.
func all[T any](o object, decode func(text string) T) iter.Seq2[string, T] {
	return func(yield func(string, T) bool) {
		var names []string
		values := make(map[string]string)
		valid := jsonscan.Each(string(o), func(key, value string) {
			if _, again := values[key]; !again {
				names = append(names, key)
			}
			values[key] = value
		})
		if !valid {
			return
		}
		for _, name := range names {
			if !yield(name, decode(values[name])) {
				return
			}
		}
	}
}

func (o object) marshal() ([]byte, error) {
	if o == "" {
		return []byte("null"), nil
	}
	return []byte(o), nil // json.Marshal checks it
}

// unmarshalObject stores the text of an object in dst, or "" for null.
func unmarshalObject(data []byte, dst *string, what string) error {
	var text bytes.Buffer
	switch err := json.Compact(&text, data); {
	case err != nil: // whose text quotes the data
		return errors.New("mailtrapwebhook: the " + what + " are not JSON")
	case text.String() == "null":
		*dst = ""
	case bytes.HasPrefix(text.Bytes(), []byte("{")):
		*dst = text.String()
	default:
		return errors.New("mailtrapwebhook: the " + what + " are not a JSON object")
	}
	return nil
}

// decodeAny returns the value of a JSON text that has been checked, and nil for
// no text.
func decodeAny(text string) (value any) {
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	_ = d.Decode(&value)
	return value
}
