package conf

import (
	"strings"

	"github.com/spf13/pflag"
)

// flagValue remembers what a flag said until the file has been read.
type flagValue struct {
	knob *Knob
	text string
	over *Overrides
}

func (f *flagValue) String() string { return f.text }
func (f *flagValue) Type() string   { return f.knob.kind() }
func (f *flagValue) Set(s string) error {
	f.text = s
	f.over.set = append(f.over.set, f)
	return f.knob.Set(&Config{}, s) // a mistake is the flag's: say it at once
}

func (k *Knob) kind() string {
	if k.Unit != "" {
		return k.Unit
	}
	switch k.field(&Config{}).(type) {
	case *bool:
		return "bool"
	case *[]string:
		return "list"
	}
	return "string"
}

// Overrides are settings given on the command line; they win over the file.
type Overrides struct{ set []*flagValue }

// Flags adds a flag for each named knob.
func (o *Overrides) Flags(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		k, err := Lookup(name)
		if err != nil {
			panic(err)
		}
		doc := k.Doc
		if k.Def != "" {
			doc += " (default " + k.Def + ")"
		}
		f := fs.VarPF(&flagValue{knob: k, over: o}, strings.ReplaceAll(name, "_", "-"), "", doc)
		if _, ok := k.field(&Config{}).(*bool); ok {
			f.NoOptDefVal = "true"
		}
	}
}

// Apply sets what the command line said.
func (o *Overrides) Apply(c *Config) error {
	for _, f := range o.set {
		if err := f.knob.Set(c, f.text); err != nil {
			return err
		}
	}
	return c.Check()
}

// Given reports whether the command line set the knob.
func (o *Overrides) Given(name string) bool {
	for _, f := range o.set {
		if f.knob.Name == name {
			return true
		}
	}
	return false
}

// Put adds a setting that came by another flag than its own.
func (o *Overrides) Put(name, text string) error {
	k, err := Lookup(name)
	if err != nil {
		return err
	}
	return (&flagValue{knob: k, over: o}).Set(text)
}

// Args are the flags as they were given, for a second process.
func (o *Overrides) Args() []string {
	var args []string
	for _, f := range o.set {
		args = append(args, "--"+strings.ReplaceAll(f.knob.Name, "_", "-")+"="+f.text)
	}
	return args
}
