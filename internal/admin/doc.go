// Package admin is how a person asks a running daemon: a unix socket in its data directory
// that answers lines of JSON.
//
//	{"cmd":"status","args":{…}}  ──▶ daemon ──▶  {"ok":true,"value":…} | {"ok":false,"error":"…"}
//
// One line is one request, one line is its answer, any number per connection. Whoever may open the
// socket (mode 0600) may ask anything. A daemon registers its commands on its own Registry, since one
// process may hold several daemons.
package admin
