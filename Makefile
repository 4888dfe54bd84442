# Every target works on a fresh checkout after scripts/setup.
GO       ?= go
LINT      = $(GO) tool -modfile=scripts/tools/go.mod golangci-lint
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
LDFLAGS   = -s -w -X main.version=$(VERSION)
COMMANDS  = $(notdir $(wildcard cmd/*))

.PHONY: build test race lint gen gen-check lab lab-test lab-cycles bench clean

build: $(COMMANDS:%=bin/%) bin/lldpsender  ## all programs, static, into bin/

bin/%: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $@ ./cmd/$*

bin/lldpsender: FORCE
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w' -o $@ ./lab/lldpsender

test:  ## everything but the lab, about a minute with a warm cache
	$(GO) vet ./...
	$(GO) test ./...

race:  ## the same under the race detector; needs a C compiler
	CGO_ENABLED=1 $(GO) test -race ./...

lint:  ## linters, formatting, go.mod, and the floors of arch_test.go
	$(LINT) run
	$(GO) mod tidy -diff
	$(GO) test .

gen:  ## Go code from proto/, golden files stay as they are
	$(GO) run ./proto/gen

gen-check: gen  ## fails if the generated code in the checkout is not what gen makes
	git diff --exit-code -- proto
	@new=$$(git ls-files --others --exclude-standard -- proto); [ -z "$$new" ] || { echo "not in the repository: $$new"; exit 1; }

lab: build  ## a data centre on this machine: power-on to a running system
	bin/ingot-lab up

lab-test: build  ## real firmware, real FRR, real Redfish, a real browser (scripts/setup --browser); minutes
	$(GO) test -p 1 -tags lab -count=1 -timeout 40m -v -run Lab ./lab/... ./leaf/... ./web/...

ROUNDS ?= 7
lab-cycles: build  ## servers through allocation and release while random things break; ROUNDS cycles of each of three servers
	INGOT_LAB_ROUNDS=$(ROUNDS) $(GO) test -tags lab,cycles -count=1 -timeout 4h -v -run Cycles ./lab

bench:  ## benchmarks with peers side by side
	$(GO) test -run '^$$' -bench . -benchtime 1s ./...

clean:
	rm -rf bin

FORCE:
