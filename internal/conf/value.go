package conf

import (
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/capstan-fs/capstan/wire"
)

// Set gives the knob a value from the file or the command line: a string, or TOML's own types.
func (k *Knob) Set(c *Config, v any) error {
	if err := k.set(c, v); err != nil {
		return fmt.Errorf("%s = %v: %w", k.Name, quote(v), err)
	}
	return nil
}

func quote(v any) string {
	if s, ok := v.(string); ok {
		return strconv.Quote(s)
	}
	return fmt.Sprint(v)
}

// want describes acceptable values, for messages and the page.
func (k *Knob) want() string {
	var s string
	switch k.field(&Config{}).(type) {
	case *int:
		s = "a number of " + k.Unit
	case *uint64:
		s = "a size in bytes, like 4096 or \"64MiB\""
	case *time.Duration:
		s = "a time, like \"5s\" or \"500ms\" (a bare number is seconds)"
	case *bool:
		s = "true or false"
	case *[]string:
		s = "a list of strings"
	case *wire.UUID:
		s = "a UUID of 32 hexadecimal digits"
	default:
		s = "a string"
	}
	if len(k.OneOf) > 0 {
		s = "one of " + strings.Join(k.OneOf, ", ")
	}
	if k.Min != "" {
		s += " between " + k.Min + " and " + k.Max
	}
	return s
}

func (k *Knob) set(c *Config, v any) error {
	bad := fmt.Errorf("should be %s", k.want())
	text, isText := v.(string)
	switch f := k.field(c).(type) {
	case *string:
		if !isText || len(k.OneOf) > 0 && !slices.Contains(k.OneOf, text) {
			return bad
		}
		*f = text
	case *bool:
		b, ok := v.(bool)
		if isText {
			var err error
			b, err = strconv.ParseBool(text)
			ok = err == nil
		}
		if !ok {
			return bad
		}
		*f = b
	case *[]string:
		list, ok := stringList(v)
		if !ok {
			return bad
		}
		*f = list
	case *wire.UUID:
		u, err := ParseUUID(text)
		if !isText || err != nil {
			return bad
		}
		*f = u
	default:
		n, ok := k.number(v)
		if !ok {
			return bad
		}
		if k.Min != "" {
			lo, _ := k.number(k.Min)
			hi, _ := k.number(k.Max)
			if n < lo || n > hi {
				return bad
			}
		}
		switch f := f.(type) {
		case *int:
			*f = int(n)
		case *uint64:
			*f = uint64(n)
		case *time.Duration:
			*f = time.Duration(n)
		}
	}
	return nil
}

// number reads a count, a size in bytes or a time in nanoseconds.
func (k *Knob) number(v any) (int64, bool) {
	_, isTime := k.field(&Config{}).(*time.Duration)
	_, isSize := k.field(&Config{}).(*uint64)
	switch v := v.(type) {
	case int64:
		if isTime {
			return seconds(float64(v))
		}
		return v, v >= 0
	case float64:
		if isTime {
			return seconds(v)
		}
		return int64(v), v == math.Trunc(v) && v >= 0 && v < math.MaxInt64
	case string:
		s := strings.TrimSpace(v)
		if isTime {
			if x, err := strconv.ParseFloat(s, 64); err == nil {
				return seconds(x)
			}
			d, err := time.ParseDuration(s)
			return int64(d), err == nil && d >= 0
		}
		if isSize {
			n, err := ParseBytes(s)
			return int64(n), err == nil && n <= math.MaxInt64
		}
		n, err := strconv.ParseInt(s, 10, 64)
		return n, err == nil && n >= 0
	}
	return 0, false
}

func seconds(x float64) (int64, bool) {
	x *= float64(time.Second)
	return int64(x), x >= 0 && x < math.MaxInt64
}

func stringList(v any) ([]string, bool) {
	switch v := v.(type) {
	case string:
		var out []string
		for _, s := range strings.Split(v, ",") {
			if s = strings.TrimSpace(s); s != "" {
				out = append(out, s)
			}
		}
		return out, true
	case []any:
		out := make([]string, len(v))
		for i := range v {
			s, ok := v[i].(string)
			if !ok {
				return nil, false
			}
			out[i] = s
		}
		return out, true
	}
	return nil, false
}

var byteUnits = []struct {
	name string
	n    uint64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"T", 1 << 40}, {"G", 1 << 30}, {"M", 1 << 20}, {"K", 1 << 10}, {"B", 1}, {"", 1}}

// ParseBytes reads a size: 4096, 64KiB, 1G. Units are powers of 1024.
func ParseBytes(s string) (uint64, error) {
	for _, u := range byteUnits {
		num, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseUint(strings.TrimSpace(num), 10, 64)
		if err != nil || n > math.MaxUint64/u.n {
			break
		}
		return n * u.n, nil
	}
	return 0, fmt.Errorf("%q is no size: write 4096, 64KiB, 2GiB", s)
}

// ParseUUID reads what UUID.String prints, with or without the dashes.
func ParseUUID(s string) (u wire.UUID, err error) {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != len(u) {
		return u, fmt.Errorf("%q is no UUID", s)
	}
	copy(u[:], b)
	return u, nil
}
