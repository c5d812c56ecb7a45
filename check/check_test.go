// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"pg_liveness_exporter/config"
	"pg_liveness_exporter/internal/credentials"
	"pg_liveness_exporter/internal/testenv"
	"pg_liveness_exporter/internal/testservers"
)

// hanging is how long a run may take before a test counts it as hung.
const hanging = 10 * time.Second

// secret is in the addresses that the tests use. No output may contain it.
const secret = "hunter2"

// settings returns the settings of a check from its entry in a configuration file.
func settings(t *testing.T, entry string) *config.Check {
	t.Helper()
	return settingsIn(t, t.TempDir(), entry)
}

// settingsIn is settings for a file in a folder.
func settingsIn(t *testing.T, folder, entry string) *config.Check {
	t.Helper()
	text := "targets: {orders: {host: h, user: u}}\nchecks: {c: " + entry + "}\n"
	file, err := config.Parse(strings.NewReader(text), filepath.Join(folder, "x.yml"), config.Probing{Timeout: time.Second}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return file.Checks[0]
}

// newCheck returns a checker from an entry in a configuration file. It supports all kinds except SQL.
func newCheck(t *testing.T, entry string) *Checker {
	t.Helper()
	return checkIn(t, t.TempDir(), entry)
}

// checkIn is newCheck for a file in a folder.
func checkIn(t *testing.T, folder, entry string) *Checker {
	t.Helper()
	c := settingsIn(t, folder, entry)
	return New(c, credentials.ForCheck(c), nil)
}

// expect runs the check and compares its status, output and value with want.
func expect(t *testing.T, c *Checker, want string) {
	t.Helper()
	start := time.Now()
	r := c.Run(t.Context())
	got := r.Status.String()
	if r.Output != "" {
		got += ": " + r.Output
	}
	if r.HasValue {
		got += fmt.Sprintf(" (%g)", r.Value)
	}
	if got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if took := time.Since(start); took > hanging || r.Took > took || r.At.Before(start) {
		t.Errorf("the run took %s, and Took is %s", took, r.Took)
	}
	for _, private := range []string{secret, "127.0.0.1", "://"} {
		if strings.Contains(r.Output, private) {
			t.Errorf("the output %q contains %q", r.Output, private)
		}
	}
}

func TestSQL(t *testing.T) {
	t.Parallel()
	const (
		boolean = iota
		numeric
		text
	)
	row := func(kind int, values ...string) Scalar {
		r := Scalar{Columns: 1, Rows: len(values), Bool: kind == boolean, Number: kind == numeric}
		if len(values) > 0 {
			r.Text = values[0]
		}
		return r
	}
	null := row(boolean, "")
	null.Null = true
	columns := row(numeric, "1")
	columns.Columns = 2
	const (
		notBoolean = "fail: the statement returned neither true nor false, and there are no limits nor a value to equal"
		notNumber  = "fail: the statement returned no number to compare with the limits"
	)
	for _, test := range []struct {
		keys   string
		result Scalar
		want   string
	}{
		{"", row(boolean, "t"), "pass"},
		{"", row(boolean, "f"), "fail: the statement returned false"},
		{"", row(boolean), "fail: the statement returned no row"},
		{"", row(boolean, "t", "t"), "fail: the statement returned several rows"},
		{"", Scalar{}, "fail: the statement returned no column"},
		{"", columns, "fail: the statement returned several columns"},
		{"", null, "fail: the statement returned NULL"},
		{"", row(text, secret), notBoolean},
		{"", row(numeric, "5"), notBoolean},
		{", equals: 9f1c", row(text, "9f1c"), "pass"},
		{", equals: 9f1c", row(text, secret), "fail: the value is another one"},
		{", equals: 5", row(numeric, "5"), "pass"},
		{", equals: 5", row(numeric, "6"), "fail: the value is another one"},
		{", equals: true", row(boolean, "t"), "pass"},
		{", equals: false", row(boolean, "t"), "fail: the value is another one"},
		{", fail_above: 5", row(numeric, "5"), "pass (5)"},
		{", fail_above: 5", row(numeric, "5.001"), "fail: 5.001 is above 5 (5.001)"},
		{", fail_below: 5", row(numeric, "4e-1"), "fail: 0.4 is below 5 (0.4)"},
		{", warn_above: 5, fail_above: 9", row(numeric, "9"), "warn: 9 is above 5 (9)"},
		{", warn_below: 5, fail_below: 1", row(numeric, "1"), "warn: 1 is below 5 (1)"},
		{", fail_above: 5", row(numeric, "NaN"), notNumber},
		{", fail_above: 5", row(numeric, "-Infinity"), notNumber},
		{", fail_above: 5", row(text, "1"), notNumber},
		{", fail_above: 5", row(boolean, "t"), notNumber},
	} {
		query := func(context.Context, string) (Scalar, error) { return test.result, nil }
		c := New(settings(t, "{sql: SELECT, target: orders"+test.keys+"}"), nil, query)
		t.Run(test.want+test.keys, func(t *testing.T) { expect(t, c, test.want) })
	}
}

func TestTCP(t *testing.T) {
	t.Parallel()
	l := listen(t, func(net.Conn) {})
	expect(t, newCheck(t, `{tcp: "`+l+`"}`), "pass")
	expect(t, newCheck(t, `{tcp: "127.0.0.1:1"}`), "fail: connection refused")
	expect(t, newCheck(t, `{tcp_file: /`+secret+`}`), "fail: tcp_file: no such file or directory")
}

// listen accepts connections until the test ends, and calls serve with each of them. It returns the address.
func listen(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				serve(conn)
			}()
		}
	}()
	return l.Addr().String()
}

func TestHTTP(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "all is well") })
	mux.HandleFunc("/down", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, secret, http.StatusServiceUnavailable)
	})
	mux.Handle("/moved", http.RedirectHandler("/ready", http.StatusFound))
	mux.Handle("/away", http.RedirectHandler("/refers", http.StatusFound))
	mux.HandleFunc("/refers", func(w http.ResponseWriter, r *http.Request) {
		if r.Referer() != "" {
			w.WriteHeader(http.StatusTeapot)
		}
	})
	mux.HandleFunc("/to", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "http://"+r.URL.RawQuery+"/ready")
		w.WriteHeader(http.StatusFound)
	})
	mux.Handle("/loop", http.RedirectHandler("/loop", http.StatusFound))
	mux.HandleFunc("/hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	mux.HandleFunc("/trickles", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			fmt.Fprint(w, "x")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(50 * time.Millisecond)
		}
	})
	sent := make(chan int64, 10)
	mux.HandleFunc("/huge", func(w http.ResponseWriter, _ *http.Request) {
		n, _ := io.CopyN(w, zeros{}, 1<<30)
		sent <- n
	})
	mux.HandleFunc("/header", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X", strings.Repeat("x", 1<<20))
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		if _, password, _ := r.BasicAuth(); password != secret {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	plain := httptest.NewServer(mux)
	defer plain.Close()
	encrypted := httptest.NewTLSServer(mux)
	defer encrypted.Close()
	root := filepath.Join(t.TempDir(), "root.pem")
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: encrypted.Certificate().Raw})
	if err := os.WriteFile(root, certificate, 0o600); err != nil {
		t.Fatal(err)
	}
	other := httptest.NewServer(mux)
	defer other.Close()
	_, port, err := net.SplitHostPort(strings.TrimPrefix(plain.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	byName := "http://localhost:" + port
	const forbidden = "fail: redirected to an address that is not allowed"
	withLogin := strings.Replace(plain.URL, "://", "://u:"+secret+"@", 1)
	notHTTP := listen(t, func(conn net.Conn) { _, _ = conn.Write([]byte(secret + "\r\n\r\n")) })
	closes := listen(t, func(net.Conn) {})
	ends := listen(t, func(conn net.Conn) { _, _ = conn.Read(make([]byte, 1000)) })
	for name, test := range map[string]struct{ url, keys, want string }{
		"ready": {plain.URL + "/ready", "", "pass"}, "match": {plain.URL + "/ready", `, match: "is w"`, "pass"},
		"no match": {plain.URL + "/ready", ", match: bad", "fail: the body does not match"},
		"down":     {plain.URL + "/down", "", "fail: status 503, 2xx is expected"}, "wanted": {plain.URL + "/down", ", status: 503", "pass"},
		"redirect":        {plain.URL + "/moved", ", match: well", "pass"},
		"redirect wanted": {plain.URL + "/moved", ", status: 302", "pass"},
		"secret":          {plain.URL + "/away?token=" + secret, "", "pass"},
		"loop":            {plain.URL + "/loop", "", "fail: redirected without end"},
		"own host":        {plain.URL + "/to?" + strings.TrimPrefix(other.URL, "http://"), "", "pass"},
		"own name":        {byName + "/to?LOCALHOST:" + port, "", "pass"},
		"own address":     {plain.URL + "/to?[::ffff:127.0.0.1]:" + port, "", "pass"},
		"loopback":        {plain.URL + "/to?localhost:" + port, "", forbidden},
		"back":            {byName + "/to?127.0.0.1:" + port, "", forbidden},
		"another address": {plain.URL + "/to?127.0.0.2:" + port, "", forbidden},
		"this machine":    {plain.URL + "/to?0.0.0.0:" + port, "", forbidden},
		"in disguise":     {byName + "/to?[::ffff:127.0.0.1]:" + port, "", forbidden},
		"huge":            {plain.URL + "/huge", "", "pass"},
		"huge match":      {plain.URL + "/huge", ", match: x", "fail: the body does not match"},
		"header":          {plain.URL + "/header", "", "fail: unexpected response"},
		"hangs":           {plain.URL + "/hangs", ", timeout: 300ms", "fail: no answer in time"},
		"slow":            {plain.URL + "/trickles", ", timeout: 300ms, match: y", "fail: no answer in time"},
		"login":           {withLogin + "/login", "", "pass"}, "no login": {plain.URL + "/login", "", "fail: status 401, 2xx is expected"},
		"untrusted": {encrypted.URL + "/ready", "", "fail: its certificate is not trusted"},
		"trusted":   {encrypted.URL + "/ready", ", sslrootcert: " + root, "pass"},
		"no root":   {encrypted.URL + "/ready", ", sslrootcert: /none", "fail: sslrootcert: no such file or directory"},
		"no TLS":    {strings.Replace(plain.URL, "http:", "https:", 1), "", "fail: the TLS handshake failed"},
		"refused":   {"http://127.0.0.1:1", "", "fail: connection refused"},
		"not HTTP":  {"http://" + notHTTP, "", "fail: unexpected response"},
		"closes":    {"http://" + closes, "", "fail: the connection broke off"},
		"ends":      {"http://" + ends, "", "fail: the connection broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			expect(t, newCheck(t, fmt.Sprintf(`{http: "%s"%s}`, test.url, test.keys)), test.want)
		})
	}
	for range 2 {
		if n := <-sent; n > 64<<20 {
			t.Errorf("the server sent %d MiB", n>>20)
		}
	}
}

// zeros is an endless reader.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestUnexpectedReplies tests servers that are not Redis, and a Redis that is loading its data.
func TestUnexpectedReplies(t *testing.T) {
	t.Parallel()
	const (
		brokeOff   = "fail: the connection broke off"
		unexpected = "fail: unexpected response"
	)
	for reply, want := range map[string]string{
		"-LOADING Redis is loading the dataset in memory\r\n": "fail: it is loading its data (LOADING)",
		"-hunter2\r\n": unexpected, "+hunter2\r\n": unexpected, "HTTP/1.1 400 Bad Request\r\n\r\n": unexpected,
		"": brokeOff, "+PONG\r\n": "pass", "PONG\r\n": unexpected, "\r\n": unexpected,
		"+" + strings.Repeat("x", 1<<20): unexpected,
		// Lengths that a library might allocate, and invalid ones.
		"$9223372036854775807\r\n": unexpected, "$3000000000\r\n": unexpected, "*2000000000\r\n": unexpected,
		"$65536\r\n": brokeOff, "$-2\r\n": unexpected, "$x\r\n": unexpected,
	} {
		address := listen(t, func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 100))
			_, _ = io.WriteString(conn, reply)
		})
		expect(t, newCheck(t, `{redis: "redis://`+address+`"}`), want)
	}
}

// TestCeleryEndlessReplies: a broker that never runs out of replies is read up to a number and a size, not until the
// deadline.
func TestCeleryEndlessReplies(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"small": 10, "large": 60 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			address := listen(t, func(conn net.Conn) {
				in, ticket := bufio.NewReader(conn), ""
				for {
					command := readCommand(in)
					if command == nil {
						return
					}
					switch command[0] {
					case "PUBLISH":
						var e envelope
						_ = json.Unmarshal([]byte(command[2]), &e)
						body, _ := base64.StdEncoding.DecodeString(e.Body)
						var ping struct{ Ticket string }
						_ = json.Unmarshal(body, &ping)
						ticket = ping.Ticket
						_, _ = io.WriteString(conn, ":9223372036854775807\r\n")
					case "RPOP":
						n := sent.Add(1)
						reply := fmt.Sprintf(`{"headers":{"ticket":%q},"properties":{"delivery_tag":"%0*d"}}`, ticket, size, n)
						_, _ = fmt.Fprintf(conn, "$%d\r\n%s\r\n", len(reply), reply)
					default:
						_, _ = io.WriteString(conn, ":1\r\n")
					}
				}
			})
			expect(t, newCheck(t, fmt.Sprintf("{celery: 'redis://%s/0', timeout: 60s}", address)),
				"fail: its queue has more replies than workers send")
			if n := sent.Load(); n > maxReplies+1 || n*int64(size) > maxReplyBytes+1<<20 {
				t.Errorf("%d replies of %d bytes were read", n, size)
			}
		})
	}
}

// readCommand reads a command to Redis, nil if there is none.
func readCommand(in *bufio.Reader) []string {
	var words int
	if _, err := fmt.Fscanf(in, "*%d\r\n", &words); err != nil {
		return nil
	}
	command := make([]string, words)
	for i := range command {
		var size int
		if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
			return nil
		}
		word := make([]byte, size+2)
		if _, err := io.ReadFull(in, word); err != nil {
			return nil
		}
		command[i] = string(word[:size])
	}
	return command
}

func TestCelery(t *testing.T) {
	t.Parallel()
	python := testenv.CeleryPython(t)
	r := newRedis(t, redisServer, "--requirepass", secret)
	broker := (&url.URL{
		Scheme: "redis", User: url.UserPassword("", secret), Host: fmt.Sprintf("127.0.0.1:%d", r.Port), Path: "/1",
	}).String()
	one := newCheck(t, `{celery: "`+broker+`", timeout: 6s}`)
	two := newCheck(t, `{celery: "`+broker+`", fail_below: 2, timeout: 6s}`)
	expect(t, one, "fail: no worker answered, at least 1 is expected (0)")
	worker := func(name, keys string, among float64, changed ...string) *testservers.Celery {
		w, err := testservers.NewCelery(t.Context(), python, name, broker, changed...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := w.Remove(); err != nil {
				t.Error(err)
			}
		})
		// The worker reports that it is ready a moment before it subscribes.
		ping := newCheck(t, `{celery: "`+broker+`", timeout: 1s`+keys+`}`)
		for end := time.Now().Add(2 * hanging); ping.Run(t.Context()).Value != among && time.Now().Before(end); {
			time.Sleep(50 * time.Millisecond)
		}
		return w
	}
	worker("a", "", 1)
	expect(t, one, "pass (1)")
	expect(t, two, "fail: 1 worker answered, at least 2 are expected (1)")
	worker("c", ", key_prefix: p_", 1,
		"task_serializer='pickle'", "accept_content=['json', 'pickle']",
		"broker_transport_options={'global_keyprefix': 'p_'}")
	expect(t, newCheck(t, `{celery: "`+broker+`", key_prefix: p_, timeout: 20s}`), "pass (1)")
	short := newCheck(t, `{celery: "`+broker+`", timeout: 150ms, ttl: 1s}`)
	if r := short.Run(t.Context()); r.HasValue && r.Value == 0 && r.Took < 100*time.Millisecond {
		t.Errorf("the check did not wait for replies: %+v", r)
	}
	b := worker("b", "", 2)
	// The run ends with the second reply: expect allows less time than the timeout.
	expect(t, newCheck(t, `{celery: "`+broker+`", fail_below: 2, timeout: 30s}`), "pass (2)")
	for range 2 {
		if err := b.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup // each waits for the stopped worker until shortly before its timeout
		both.Go(func() { expect(t, two, "fail: 1 worker answered, at least 2 are expected (1)") })
		both.Go(func() { expect(t, one, "pass (1)") })
		both.Wait()
		if err := b.Signal(syscall.SIGCONT); err != nil { // its late replies must not be counted
			t.Fatal(err)
		}
		expect(t, newCheck(t, `{celery: "`+broker+`", fail_above: 2, fail_below: 2, timeout: 20s}`), "pass (2)")
	}
	time.Sleep(time.Second)
	expect(t, two, "pass (2)")
	for _, pattern := range []string{"*reply.celery.pidbox", "pg_liveness_exporter*"} {
		out, err := r.Do(t.Context(), "-a", secret, "--no-auth-warning", "-n", "1", "KEYS", pattern)
		if err != nil || out != "" {
			t.Errorf("left: %s %v", out, err)
		}
	}
	// Several brokers, between which the workers of one application switch.
	second := newRedis(t, redisServer)
	other := fmt.Sprintf("redis://127.0.0.1:%d/0", second.Port)
	w, err := testservers.NewCelery(t.Context(), python, "d", other)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Remove(); err != nil {
			t.Error(err)
		}
	})
	both := newCheck(t, `{celery: "`+broker+`;`+other+`;redis://127.0.0.1:1", fail_below: 3, timeout: 20s}`)
	for end := time.Now().Add(2 * hanging); both.Run(t.Context()).Status != Pass && time.Now().Before(end); {
		time.Sleep(50 * time.Millisecond)
	}
	expect(t, both, "pass (3)")
	if err := r.Remove(); err != nil {
		t.Fatal(err)
	}
	expect(t, both, "fail: 1 worker answered, at least 3 are expected (1)")
	expect(t, one, "fail: connection refused")
}

// TestCeleryQueue: only the workers that consume the queue count. One that has ceased to still replies to a ping.
func TestCeleryQueue(t *testing.T) {
	t.Parallel()
	python := testenv.CeleryPython(t)
	r := newRedis(t, redisServer)
	broker := fmt.Sprintf("redis://127.0.0.1:%d/1", r.Port)
	// waitFor waits until a check has found a number: a worker reports that it is ready a moment before it subscribes.
	waitFor := func(keys string, want float64) {
		t.Helper()
		c := newCheck(t, `{celery: "`+broker+`", timeout: 3s`+keys+`}`)
		last := c.Run(t.Context())
		for end := time.Now().Add(2 * hanging); (last.Value != want || !last.HasValue) && time.Now().Before(end); last = c.Run(t.Context()) {
			time.Sleep(50 * time.Millisecond)
		}
		if last.Value != want || !last.HasValue {
			t.Errorf("%s: %+v, want %g", keys, last, want)
		}
	}
	worker := func(name string, changed ...string) {
		t.Helper()
		w, err := testservers.NewCelery(t.Context(), python, name, broker, changed...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := w.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	worker("a", "task_default_queue='orders'")
	worker("b", "task_default_queue='mails'")
	waitFor("", 2)
	waitFor(", queue: orders", 1)
	waitFor(", queue: mails", 1)
	waitFor(", queue: none", 0)
	expect(t, newCheck(t, `{celery: "`+broker+`", queue: none}`), "fail: no worker consumes the queue, at least 1 is expected (0)")
	expect(t, newCheck(t, `{celery: "`+broker+`", warn_above: 1}`), "warn: 2 workers answered, at most 1 is expected (2)")
	expect(t, newCheck(t, `{celery: "`+broker+`", queue: mails, fail_below: 2}`), "fail: 1 worker consumes the queue, at least 2 are expected (1)")
	command := func(method string) {
		t.Helper()
		message, err := newCelery(dependency{&config.Check{Timeout: time.Minute}, nil}).message(method, map[string]any{"queue": "orders"}, "")
		if err != nil {
			t.Fatal(err)
		}
		if out, err := r.Do(t.Context(), "PUBLISH", "/1.celery.pidbox", message); err != nil || out != "2" {
			t.Fatal(out, err)
		}
	}
	command("cancel_consumer")
	waitFor(", queue: orders", 0)
	waitFor("", 2)
	command("add_consumer")
	waitFor(", queue: orders", 2)
	waitFor(", queue: mails", 1)
	worker("c", "task_default_queue='orders'", "task_serializer='pickle'", "accept_content=['json', 'pickle']")
	waitFor("", 3)
	expect(t, newCheck(t, `{celery: "`+broker+`", queue: orders}`), "fail: a worker does not reply in JSON, since its task_serializer is another one")
}

// TestRefuseSpecial tests that redirects may go to private and public networks.
func TestRefuseSpecial(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"10.0.0.1:80": true, "192.0.2.1:443": true, "[2001:db8::1]:80": true, "[64:ff9b::10.0.0.1]:80": true,
		"127.0.0.1:80": false, "100.100.100.200:80": false, "[::1]:80": false, "[fe80::1%eth0]:80": false, "[64:ff9b::169.254.169.254]:80": false,
	} {
		if err := refuseSpecial("tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
}
