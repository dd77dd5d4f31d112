//go:build go1.27

package benchmarks

import (
	"encoding/json/jsontext"
	"encoding/json/v2"
)

// jsonV2 is the standard library's package, which has no stable form before Go
// 1.27. It is stricter than encoding/json.
var jsonV2 = []Contender{
	contenderOf("encoding/json/v2", unmarshaling[jsontext.Value](unmarshalV2), nil, plain).
		deviating("not UTF-8", "lone surrogate", "a member twice"),
}

func unmarshalV2(data []byte, v any) error { return json.Unmarshal(data, v) }
