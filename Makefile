# `make run` needs Go 1.26 or newer, git and make. What else a target needs, its script brings or names.

# The same flags as in scripts/build, so that no package is compiled twice.
program := . scripts/require-go && CGO_ENABLED=0 go build -trimpath -buildvcs=false
lint := . scripts/require-go && go tool -modfile=tools/golangci-lint/go.mod golangci-lint

.PHONY: build run demo test fuzz lint vulncheck fmt bench tarballs image clean help

build: ## build ./pg_liveness_exporter
	@scripts/build

run: build ## run it against a throwaway PostgreSQL, or the one in the environment; LISTEN=host:port
	@$(program) -o .build/demo ./internal/cmd/demo
	@exec .build/demo run ./pg_liveness_exporter

demo: build ## run all that it is used with, on throwaway servers with some load; keys break things
	@$(program) -o .build/demo ./internal/cmd/demo
	@exec scripts/run-demo

test: ## run all tests; ARGS='-run Name ./probe' for some; REQUIRE_ALL=1 makes a skip a failure
	@scripts/test $(ARGS)

fuzz: ## look for bytes of a server that hurt, for an hour; ARGS=60 for so many seconds
	@scripts/fuzz $(ARGS)

lint: ## look for mistakes in code, scripts and examples
	$(lint) run ./...
	@scripts/lint-scripts
	@cd tools/lint-examples && go run . ../../examples

vulncheck: ## look for known vulnerabilities in what the program reaches, Go's own too
	@scripts/check-vulnerabilities

fmt: ## format the code
	$(lint) fmt ./...

bench: ## compare a scrape with a baseline; ARGS=-many for very many targets
	@$(program) -o .build/bench ./internal/cmd/bench && exec .build/bench $(ARGS)

tarballs: ## build what is committed for all platforms, into .tarballs; ARGS=linux/arm64 for some
	@scripts/build-tarballs $(ARGS)

image: ## build the container image of what `make tarballs` built; ARGS=arm64 for another architecture than amd64
	@scripts/build-image $(ARGS)

clean: ## remove what was built or brought into this folder
	rm -rf .build .tarballs pg_liveness_exporter internal/testservers/node_modules internal/testservers/majors/node_modules

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12
