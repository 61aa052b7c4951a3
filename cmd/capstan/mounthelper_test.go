package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/capstan-fs/capstan/internal/cluster"
)

func TestHelperArgs(t *testing.T) {
	for _, x := range []struct {
		args []string
		want helperArgs
		ok   bool
	}{
		{[]string{"src", "/mnt"}, helperArgs{source: "src", dir: "/mnt"}, true},
		{[]string{"src", "/mnt", "-sfnv", "-o", "rw,subdir=/a"}, helperArgs{source: "src", dir: "/mnt", options: []string{"rw,subdir=/a"}, fake: true, sloppy: true, verbose: true}, true},
		{[]string{"-n", "src", "-oro", "/mnt", "-t", "fuse.capstan"}, helperArgs{source: "src", dir: "/mnt", options: []string{"ro"}}, true},
		{[]string{"src"}, helperArgs{}, false},
		{[]string{"src", "/mnt", "-o"}, helperArgs{}, false},
		{[]string{"src", "/mnt", "-q"}, helperArgs{}, false},
		{[]string{"src", "/mnt", "-N", "1"}, helperArgs{}, false},
		{[]string{"src", "/mnt", "more"}, helperArgs{}, false},
	} {
		got, err := parseHelperArgs(x.args)
		if (err == nil) != x.ok || x.ok && !reflect.DeepEqual(got, x.want) {
			t.Errorf("%q: %+v, %v", x.args, got, err)
		}
	}
}

func TestMountSources(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile(filepath.Join(dir, "here.conf"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for src, want := range map[string][2]string{
		"capstan":                  {"", ""},
		"/etc/c.conf":              {"/etc/c.conf", ""},
		"/etc/c.conf:/pods/a":      {"/etc/c.conf", "pods/a"},
		"capstan:/pods//a/.":       {"", "pods/a"},
		"here.conf":                {"here.conf", ""},
		"/etc/c.conf:/../../other": {"", "error"},
	} {
		conf, sub, err := sourceConf(src)
		if want[1] == "error" {
			if err == nil {
				t.Errorf("%s is taken as %s %s", src, conf, sub)
			}
		} else if err != nil || conf != want[0] || sub != want[1] {
			t.Errorf("%s: %q %q %v", src, conf, sub, err)
		}
	}
}

func TestMountOptionList(t *testing.T) {
	o, err := cluster.ParseMountOptions("rw,noauto,_netdev,x-systemd.automount,conf=/c,subdir=/a/b,allow_other,noexec,log=/l", false)
	want := cluster.MountOptions{Conf: "/c", Log: "/l", Subdir: "a/b", Kernel: "rw,allow_other,noexec"}
	if err != nil || o != want {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := cluster.ParseMountOptions("rw,frobnicate", false); err == nil {
		t.Error("an unknown option is taken")
	}
	if o, err := cluster.ParseMountOptions("rw,frobnicate", true); err != nil || o.Kernel != "rw" {
		t.Errorf("sloppy: %+v, %v", o, err)
	}
	if _, err := cluster.ParseMountOptions("subdir=/a/../../b", false); err == nil {
		t.Error("a sub-directory leads out")
	}
}
