# make demo and make test are all that a newcomer needs.
GO      ?= go
RACE    := ./caps/... ./wire/... ./locker/... ./clustermap/... ./crush/... ./journal/... ./mds/... ./osd/... ./mon/... \
           ./msgr/... ./monc/... ./objecter/... ./client/... ./fuse/... ./internal/... ./cmd/...
# One thread each: the race detector has nothing to find and costs ten times.
PLAIN   := ./locker ./sim/... ./lockcert/...
FUZZTIME ?= 20s
SHELL := /bin/bash -o pipefail

.PHONY: demo build test check times real bench fuzz sim diagrams docs

demo: ## a whole cluster and a mount in one process
	$(GO) run ./cmd/capstan demo

build:
	$(GO) build -o bin/capstan ./cmd/capstan

PREFIX ?= /usr/local
.PHONY: install
install: build ## the program in PREFIX/bin, and the helper of mount(8) in /sbin
	install -D -m 755 bin/capstan $(DESTDIR)$(PREFIX)/bin/capstan
	install -d $(DESTDIR)/sbin
	ln -sf $(PREFIX)/bin/capstan $(DESTDIR)/sbin/mount.fuse.capstan
	ln -sf $(PREFIX)/bin/capstan $(DESTDIR)/sbin/mount.capstan

test: build ## everything due on every change; about 15 minutes on 2 cores
	$(GO) test -race $(RACE)
	$(GO) test ./locker ./lockcert ./sim/...
	CAPSTAN_BIN=$(CURDIR)/bin/capstan $(GO) test -timeout 40m ./integration/...

check: ## vet, format, walls between packages, generated pages
	$(GO) vet ./...
	@bad=$$(gofmt -l .); if [ -n "$$bad" ]; then echo "not gofmt-ed:"; echo "$$bad"; exit 1; fi
	$(GO) test ./internal/archtest ./internal/conf ./internal/metrics
	$(GO) test -run 'Fresh|Docs|Diagram' ./locker ./osd ./mds ./internal/wrong ./internal/cluster

times: build ## make test's packages with the seconds that each takes
	CAPSTAN_BIN=$(CURDIR)/bin/capstan $(GO) test -count=1 -p 1 -timeout 20m $(RACE) $(PLAIN) ./integration/... | awk '/^(ok|FAIL)/ { print $$3, $$1, $$2 }' | sort -rn

real: build ## the long set: 2 GiB file, 100 000 names, git gc, every seeded bug, suites of others (stress-ng, dbench, fio, ping_pong, SQLite, PostgreSQL)
	CAPSTAN_BIN=$(CURDIR)/bin/capstan CAPSTAN_REAL=1 $(GO) test -timeout 60m -count=1 ./integration/...

bench:
	$(GO) test -run '^$$' -bench . -benchmem ./wire ./msgr ./journal ./osd/... ./mds ./locker

fuzz: ## every fuzz target for FUZZTIME
	@for p in $$(grep -rlE '^func Fuzz' --include='*_test.go' . | xargs -n1 dirname | sort -u); do \
	  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]*' $$p/*_test.go | cut -c6-); do \
	    echo "$$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$p || exit 1; done; done

sim: ## OSDs and monitors on one thread, from seeds; SEEDS=n FROM=n for others
	$(if $(SEEDS),CAPSTAN_SIM_SEEDS=$(SEEDS)) $(if $(FROM),CAPSTAN_SIM_FROM=$(FROM)) $(GO) test -count=1 -v -timeout 60m ./sim/... | grep -vE '^=== '

diagrams docs: ## pages that come out of tables
	$(GO) run ./cmd/capstan config --docs > docs/config.md
	$(GO) run ./cmd/capstan metrics --docs > docs/metrics.md
	$(GO) run ./cmd/capstan health --docs > docs/health.md
	$(GO) test ./locker ./internal/wrong -run 'Fresh|Docs|Diagram' -rewrite

.PHONY: explore
explore: ## every state of all lock worlds, with counts: about an hour on one core, 8 GB
	CAPSTAN_EXPLORE=1 $(GO) test -count=1 -v -timeout 3h -parallel 2 -run 'Explore|Crowd|Ranks' ./locker
