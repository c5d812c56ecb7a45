// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// browser is a tab of a headless Chromium.
type browser struct {
	t   *testing.T
	ctx context.Context //nolint:containedctx // chromedp's handle of the tab

	mu       sync.Mutex
	problems []string // errors in the console, exceptions and requests to other hosts
	silent   bool     // the exporter has been stopped: requests fail
}

// openBrowser starts a browser. At the end of the test there must have been no error and no request to another host.
func openBrowser(t *testing.T, e *Exporter) *browser {
	t.Helper()
	path := testenv.Tool(t, "CHROMIUM", "chromium")
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("disable-quic", true),
		// Chromium itself looks for updates: no name leads anywhere.
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.WSURLReadTimeout(hanging))
	allocated, end := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(end)
	ctx, closeTab := chromedp.NewContext(allocated)
	t.Cleanup(closeTab)
	b := &browser{t: t, ctx: ctx}
	check(t, chromedp.Listen(ctx, func(event any) {
		switch event := event.(type) {
		case *cdpruntime.EventExceptionThrown:
			b.report("exception: %s", event.ExceptionDetails.Text)
		case *log.EventEntryAdded:
			if event.Entry.Level == log.EntryLevelError {
				b.report("console: %s", event.Entry.Text)
			}
		case *network.EventRequestWillBeSent:
			if u, err := url.Parse(event.Request.URL); err == nil && u.Scheme != "data" && u.Host != e.address {
				b.report("request to %s", event.Request.URL)
			}
		}
	}))
	t.Cleanup(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, problem := range b.problems {
			t.Error(problem)
		}
	})
	_, err := chromedp.Call(ctx, network.Enable, network.EnableParams{})
	check(t, err)
	_, err = chromedp.Call(ctx, log.Enable, cdp.Empty{})
	check(t, err)
	return b
}

func (b *browser) report(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.silent {
		b.problems = append(b.problems, fmt.Sprintf(format, args...))
	}
}

// run runs actions of a browser that must not hang.
func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, hanging)
	defer cancel()
	check(b.t, chromedp.Do(ctx, actions...))
}

func (b *browser) open(address string) {
	b.t.Helper()
	b.run(chromedp.Navigate(address))
}

func (b *browser) resize(width, height int64) {
	b.t.Helper()
	b.run(chromedp.EmulateViewport(width, height))
}

func (b *browser) execute(script string) {
	b.t.Helper()
	b.run(chromedp.Evaluate[chromedp.Void](script))
}

// evaluate returns the value of an expression. A promise is awaited.
func evaluate[T any](b *browser, expression string) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, hanging)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
	check(b.t, err)
	return value
}

// text returns what a person can read in the first element that matches the selector, "" if there is none.
func (b *browser) text(selector string) string {
	b.t.Helper()
	quoted, err := json.Marshal(selector)
	check(b.t, err)
	return evaluate[string](b, "document.querySelector("+string(quoted)+")?.innerText ?? ''")
}

// axePath returns the path of axe-core. Without it the test is skipped (see testenv.Need).
func axePath(t *testing.T) string {
	t.Helper()
	path := os.Getenv("AXE")
	testenv.Need(t, path != "", "axe-core", "make test, as root")
	return path
}

// expectAccessible requires that axe-core finds nothing.
func (b *browser) expectAccessible(what string) {
	b.t.Helper()
	axe, err := os.ReadFile(axePath(b.t))
	check(b.t, err)
	b.execute(string(axe))
	found := evaluate[[]string](b, `axe.run().then(r => r.violations.flatMap(
		v => v.nodes.map(n => v.id + ": " + n.target + " " + (n.any[0]?.message ?? v.help))))`)
	for _, violation := range found {
		b.t.Errorf("%s: %s", what, violation)
	}
	if passes := evaluate[int](b, "axe.run().then(r => r.passes.length)"); passes < 10 {
		b.t.Errorf("%s: axe-core checked only %d rules", what, passes)
	}
}

// colours sets whether the person prefers "light" or "dark".
func (b *browser) colours(scheme string) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	check(b.t, err)
}

func (b *browser) scripts(on bool) {
	b.t.Helper()
	_, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
	check(b.t, err)
}

// TestStatusPage tests the status page in a browser, while a server stops and returns.
func TestStatusPage(t *testing.T) {
	t.Parallel()
	axePath(t) // it cannot be skipped from within its subtests
	s := newServer(t, testservers.PostgresConfig{})
	const odd = "<script>alert(1)</script>"
	e, _ := startWithFile(t, fmt.Sprintf(`
defaults: {%s, interval: 500ms, timeout: 2s, commit: true}
targets:
  orders: {host: 127.0.0.1, port: %d}
  billing: {host: 127.0.0.1, port: %[2]d}
  '%s': {host: 127.0.0.1, port: %[2]d}
checks:
  backlog: {target: orders, sql: "SELECT 12", warn_above: 10}
  schema: {target: billing, sql: "SELECT to_regclass('none.none') IS NOT NULL"}
`, login(), s.Port, odd))
	address := "http://" + e.address
	eventually(t, "the targets have no result", func() bool {
		_, body := e.Health("/events")
		return strings.Count(body, `"to":"accepting"`) == 3
	})
	b := openBrowser(t, e)
	b.resize(1400, 900)
	b.open(address + "/")

	t.Run("healthy", func(t *testing.T) {
		b.t = t
		if got := b.text("h1"); got != "schema (fails): the statement returned false" {
			t.Errorf("the headline is %q", got)
		}
		if rows := b.text("#targets"); strings.Count(rows, "accepting") != 3 || !strings.Contains(rows, odd) || !strings.Contains(rows, "backlog") {
			t.Errorf("the table is %q", rows)
		}
		for _, scheme := range []string{"light", "dark"} {
			b.colours(scheme)
			b.expectAccessible(scheme)
		}
	})

	t.Run("a server stops and returns", func(t *testing.T) {
		b.t = t
		// If the page were loaded anew, this would be gone.
		b.resize(390, 300)
		b.execute(`window.kept = "kept"; window.scrollTo(0, 150);
			document.querySelector("#target-orders a").focus({preventScroll: true});`)
		check(t, s.Stop(testservers.Fast))
		eventually(t, "the page does not show that the server is down", func() bool {
			return strings.Contains(b.text("h1"), ": no response for ") && strings.Contains(b.text("#target-orders"), "no response")
		})
		b.expectAccessible("down")
		check(t, s.Start(t.Context()))
		eventually(t, "the page does not show that the server is up", func() bool {
			return strings.Count(b.text("#targets"), "accepting") == 3
		})
		if got := evaluate[string](b, `[window.kept, window.scrollY > 0, document.activeElement.textContent].join(" ")`); got != "kept true orders" {
			t.Errorf("%q is left of what the reader did", got)
		}
		if overflow := evaluate[int](b, "document.documentElement.scrollWidth - document.documentElement.clientWidth"); overflow > 0 {
			t.Errorf("the page is %d px wider than a phone", overflow)
		}
	})

	t.Run("one target", func(t *testing.T) {
		b.t = t
		b.resize(1400, 900)
		b.execute(`document.querySelector("#target-orders a").click()`)
		eventually(t, "the page of the target does not open", func() bool { return b.text("h1") == "orders" })
		page := b.text("main")
		for _, want := range []string{"accepting for", "startup", "no response: connection refused", "backlog", "97", "500ms"} {
			if !strings.Contains(page, want) {
				t.Errorf("the page lacks %q: %s", want, page)
			}
		}
		b.expectAccessible("target")
		for _, link := range evaluate[[]string](b, `[...document.querySelectorAll("a")].map(a => a.href)`) {
			if status, _ := e.Health(strings.TrimPrefix(link, address)); status != 200 {
				t.Errorf("%s: status %d", link, status)
			}
		}
		b.open(address + "/targets/" + url.PathEscape(odd))
		if got := b.text("h1"); got != odd {
			t.Errorf("the headline is %q", got)
		}
		b.open(address + "/targets/none")
		b.expectAccessible("unknown target")
		b.mu.Lock()
		b.problems = nil // the status 404 is an error in the console
		b.mu.Unlock()
	})

	t.Run("without scripts", func(t *testing.T) {
		b.t = t
		b.scripts(false)
		b.open(address + "/")
		b.scripts(true)
		if got := b.text("#targets"); strings.Count(got, "accepting") != 3 {
			t.Errorf("the table is %q", got)
		}
	})

	t.Run("the exporter stops", func(t *testing.T) {
		b.t = t
		b.open(address + "/")
		b.mu.Lock()
		b.silent = true
		b.mu.Unlock()
		check(t, e.cmd.Process.Signal(syscall.SIGSTOP))
		t.Cleanup(func() { check(t, e.cmd.Process.Signal(syscall.SIGCONT)) })
		eventually(t, "the page does not say that the exporter is silent", func() bool {
			return strings.Contains(b.text("#stale"), "has not answered since")
		})
		if got := b.text("#targets"); strings.Count(got, "accepting") != 3 {
			t.Errorf("the last results are gone: %q", got)
		}
		check(t, e.cmd.Process.Signal(syscall.SIGCONT))
		eventually(t, "the page does not recover", func() bool { return evaluate[bool](b, `document.getElementById("stale").hidden`) })
	})
}

// TestStatusOff tests that --no-web.status leaves the landing page.
func TestStatusOff(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"), "--no-web.status")
	if status, body := e.Health("/"); status != 200 || !strings.Contains(body, "Service discovery") || strings.Contains(body, "Last probes") {
		t.Errorf("status %d: %s", status, body)
	}
	for _, path := range []string{"/targets/postgres", "/events", "/badge/postgres.svg"} {
		if status, _ := e.Health(path); status != 404 {
			t.Errorf("%s: status %d", path, status)
		}
	}
	atRoot := startExporter(t, environment(s.Port, "postgres"), "--web.telemetry-path=/")
	if status, body := atRoot.Health("/"); status != 200 || !strings.Contains(body, "pg_up 1") {
		t.Errorf("status %d: %s", status, body)
	}
	if !strings.Contains(atRoot.Logged(), "there is no status page") {
		t.Error("the log does not say why there is no status page")
	}
}

// TestStatusOfImplied tests the pages of the target from the environment, which is called postgres.
func TestStatusOfImplied(t *testing.T) {
	t.Parallel()
	s := newServer(t, testservers.PostgresConfig{})
	e := startExporter(t, environment(s.Port, "postgres"))
	for path, want := range map[string]string{
		"/": "The server answers", "/targets/postgres": "accepting for", "/badge/postgres.svg?metric=uptime": "100 %",
		"/probe?target=postgres&debug=true": "Verdict: accepting", "/events": `"target":"postgres"`,
	} {
		e.Scrape()
		if status, body := e.Health(path); status != 200 || !strings.Contains(body, want) || strings.Contains(body, "127.0.0.1") {
			t.Errorf("%s: status %d: %s", path, status, body)
		}
	}
}
