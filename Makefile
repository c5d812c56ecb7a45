# `make run` needs Go 1.26 or newer, git and make. If another target needs a program, its script installs or names it.

# These are the flags of scripts/build, so that packages are compiled once.
program := . scripts/require-go && CGO_ENABLED=0 go build -trimpath -buildvcs=false
lint := . scripts/require-go && go tool -modfile=tools/golangci-lint/go.mod golangci-lint

.PHONY: build run demo test soak fuzz lint vulncheck fmt bench compare tarballs sbom packages image clean help

build: ## build ./pg_liveness_exporter
	@scripts/build

run: build ## run it with a throwaway PostgreSQL, or the one in the environment; LISTEN=host:port
	@$(program) -o .build/demo ./internal/cmd/demo
	@exec .build/demo run ./pg_liveness_exporter

demo: build ## run it with Prometheus, Alertmanager, Grafana and throwaway servers; keys break things
	@$(program) -o .build/demo ./internal/cmd/demo
	@exec scripts/run-demo

test: ## run all tests; ARGS='-run Name ./probe' for some; REQUIRE_ALL=1 to fail instead of skip
	@scripts/test $(ARGS)

soak: ## scrape 5,000 times, with a fault in every 50; ARGS=500 for fewer
	@scripts/test -run TestSoak ./e2e -args -soak=$(or $(ARGS),5000)

fuzz: ## run the fuzz tests for an hour in all; ARGS=120 for two minutes
	@scripts/fuzz $(ARGS)

lint: ## check code, scripts and examples
	$(lint) run ./...
	@scripts/lint-scripts
	@cd tools/lint-examples && go run . ../../examples

vulncheck: ## check for known vulnerabilities that the program can reach
	@scripts/check-vulnerabilities

fmt: ## format the code
	$(lint) fmt ./...

bench: ## compare a scrape with a baseline; ARGS='-many', '-fleet' or '-peers' for more
	@$(program) -o .build/bench ./internal/cmd/bench && exec .build/bench $(ARGS)

compare: build ## compare with other exporters during faults; takes ten minutes; ARGS='-faults NAME' for some
	@$(program) -o .build/compare ./internal/cmd/compare
	@exec scripts/compare $(ARGS)

tarballs: ## build the commit for all platforms, into .tarballs; ARGS=linux/arm64 for some
	@scripts/build-tarballs $(ARGS)

sbom: ## list what is in the programs of `make tarballs`, in CycloneDX files beside them
	@scripts/build-sbom

packages: ## build packages for Debian and RPM from `make tarballs`, into .packages; ARGS=arm64 for some
	@scripts/build-packages $(ARGS)

image: ## build the image from `make tarballs`; ARGS=arm64 for an architecture other than amd64
	@scripts/build-image $(ARGS)

clean: ## remove what was built or installed in this folder
	rm -rf .build .tarballs .packages pg_liveness_exporter internal/testservers/node_modules internal/testservers/majors/node_modules

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12
