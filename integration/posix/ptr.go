package posix

import "unsafe"

func ptr(p *uint32) uintptr { return uintptr(unsafe.Pointer(p)) }

func ptr8(p *byte) uintptr { return uintptr(unsafe.Pointer(p)) }
