// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestRedisURLs: what the URLs of Redis, Valkey and Celery's brokers say, and the error of those that are refused.
func TestRedisURLs(t *testing.T) {
	t.Parallel()
	const (
		schemes   = "must be a URL that begins with redis://, redis+socket://, rediss://, sentinel://, unix://, valkey://, valkeys://"
		noURL     = "is not a valid URL (host, optional port from 1 to 65535): percent-encode special characters in the password"
		path      = "must be a URL whose path is the number of a database"
		sentinels = "must be written as sentinel://HOST:PORT;sentinel://HOST:PORT, with the key master_name"
		unread    = "has parameters that cannot be read: percent-encode special characters in the password"
	)
	for _, test := range []struct {
		kind         CheckKind // redis unless set
		master, text string
		want         string
	}{
		{text: "redis://h", want: "tcp h:6379 0"},
		{text: "redis://", want: "tcp localhost:6379 0"},
		{text: "redis:///4", want: "tcp localhost:6379 4"},
		{text: "redis://h:1/3", want: "tcp h:1 3"},
		{text: "redis://h?db=3", want: "tcp h:6379 3"},
		{text: "redis://h/1?db=3", want: "tcp h:6379 3"},
		{text: "redis://h/?db=", want: "tcp h:6379 0"},
		{text: "redis://h//3/", want: "tcp h:6379 3"},
		{text: "redis://[::1]:1/3", want: "tcp [::1]:1 3"},
		{text: "valkey://h/2", want: "tcp h:6379 2"},
		{text: "valkeys://h", want: "tcp h:6379 0 TLS"},
		{text: "rediss://h", want: "tcp h:6379 0 TLS"},
		{text: "redis://u:p%40@h", want: "tcp h:6379 0 as u:p@"},
		{text: "redis://:p@h", want: "tcp h:6379 0 as :p"},
		{text: "redis://p@h", want: "tcp h:6379 0 as :p"},
		{text: "redis://u@h?password=p", want: "tcp h:6379 0 as u:p"},
		{text: "redis://:p@h?password=x", want: "tcp h:6379 0 as :p"},
		{text: "unix:///r.sock", want: "unix /r.sock 0"},
		{text: "unix://u:p@/r%20s?db=2", want: "unix /r s 2 as u:p"},
		{text: "redis+socket:///r.sock?virtual_host=2", want: "unix /r.sock 2"},
		{kind: CheckCelery, text: "redis+socket:///r.sock", want: "unix /r.sock 0"},
		{text: "redis://h?socket_timeout=1&retry_on_timeout=yes&health_check_interval=3&ssl_validate_ocsp=no", want: "tcp h:6379 0"},
		{text: "rediss://h?ssl_cert_reqs=none", want: "tcp h:6379 0 TLS any"},
		{text: "rediss://h?ssl_cert_reqs=CERT_NONE", want: "tcp h:6379 0 TLS any"},
		{text: "rediss://h?ssl_check_hostname=false", want: "tcp h:6379 0 TLS any name"},
		{text: "rediss://h?ssl_check_hostname=yes", want: "tcp h:6379 0 TLS"},
		{text: "rediss://h?ssl_ca_certs=a&ssl_certfile=/b&ssl_keyfile=c", want: "tcp h:6379 0 TLS roots /dir/a, /b and /dir/c"},
		{text: "rediss://h?ssl_certfile=b", want: "tcp h:6379 0 TLS roots , /dir/b and /dir/b"},
		{kind: CheckCelery, text: "redis://h?ssl_cert_reqs=required", want: "tcp h:6379 0 TLS"},
		{kind: CheckCelery, text: "redis://a;rediss://b/2;unix:///r", want: "tcp a:6379 0; tcp b:6379 2 TLS; unix /r 0"},
		{master: "m", text: "sentinel://a:1/3;sentinel://b", want: "  3 of a:1, b:26379"},
		{kind: CheckCelery, master: "m", text: "sentinel://:p@a/3;sentinel://:p@b/3", want: "  3 as :p of a:26379, b:26379"},
		{master: "m", text: "sentinel://a?ssl_cert_reqs=none", want: "  0 TLS any of a:26379"},

		{text: "hunter2", want: schemes},
		{text: "", want: schemes},
		{text: "http://h", want: schemes},
		{text: "redis+ssl://h", want: schemes},
		{text: "REDIS:h", want: schemes},
		{text: "redis+sentinel://h/m/0", want: sentinels},
		{text: "redis-sentinel://h:1#m", want: sentinels},
		{kind: CheckCelery, text: "amqp://h", want: "is the URL of a RabbitMQ, which cannot be checked as a broker: check its port with tcp"},
		{kind: CheckCelery, text: "pyamqp://h", want: "is the URL of a RabbitMQ, which cannot be checked as a broker: check its port with tcp"},
		{text: "redis://:hun#ter2@h", want: noURL},
		{text: "redis://#hunter2@h", want: noURL},
		{text: "redis://:hun/ter2@h/0", want: noURL},
		{text: "redis://:%zz@h", want: noURL},
		{text: "redis://h:0", want: noURL},
		{text: "redis://h:70000", want: noURL},
		{text: "redis://:hun?ter2@h/0", want: noURL},
		{text: "redis://hun?ter2@h/0", want: unread},
		{text: "redis://h?a;b", want: "lists several URLs: make each of them a check of its own"},
		{text: "redis://h/x", want: path},
		{text: "redis://h/1/2", want: path},
		{text: "redis://h/-1", want: path},
		{text: "redis://h?db=x", want: "has a database that is not a number"},
		{text: "redis://h?db=-1", want: "has a database that is not a number"},
		{text: "redis://h?db=1&db=2", want: "has the parameter db twice"},
		{text: "unix://r.sock", want: "must have three slashes and the path of a socket: unix:///PATH"},
		{text: "unix://h/r.sock", want: "must have three slashes and the path of a socket: unix:///PATH"},
		{text: "redis+socket://", want: "must have three slashes and the path of a socket: redis+socket:///PATH"},
		{text: "redis://h?DB=3", want: "has another spelling of the parameter db: write db"},
		{text: "rediss://h?sslCertReqs=none", want: "has another spelling of the parameter ssl_cert_reqs: write ssl_cert_reqs"},
		{text: "redis://a,b", want: "names several hosts: give each a URL, separated by semicolons for Celery and sentinels, otherwise in a check of its own"},
		{text: "redis://a;redis://b", want: "lists several URLs: make each of them a check of its own"},
		{kind: CheckCelery, text: "redis://a;b", want: schemes},
		{kind: CheckCelery, text: "redis://a;", want: schemes},
		{kind: CheckCelery, text: "redis://a;sentinel://b", want: "lists both sentinels and servers"},
		{master: "m", text: "sentinel://a;redis://b", want: "lists both sentinels and servers"},
		{text: "sentinel://h", want: "is the URL of sentinels, which needs the key master_name"},
		{master: "m", text: "redis://h", want: "must begin with sentinel://, since the check has keys for sentinels"},
		{master: "m", text: "sentinel://a;sentinel://b/3", want: "has a login, a database or a parameter in another URL than the first: write it into the first URL"},
		{master: "m", text: "sentinel://a;sentinel://:hunter2@b", want: "has a login, a database or a parameter in another URL than the first: write it into the first URL"},
		{text: "redis://h?ssl=true", want: "has the parameter ssl, which is refused: write rediss://"},
		{text: "rediss://h?ssl_ca_path=/x", want: "has the parameter ssl_ca_path, which is refused: write a file with all certificates, ssl_ca_certs"},
		{text: "rediss://h?ssl_password=hunter2", want: "has the parameter ssl_password, which is refused: write a key without a password"},
		{text: "rediss://h?ssl_validate_ocsp=true", want: "has the parameter ssl_validate_ocsp, which is refused: the exporter does not look up whether a certificate was revoked"},
		{text: "redis://h?ssl_cert_reqs=none", want: "has the parameter ssl_cert_reqs, which needs rediss://"},
		{text: "unix:///r?ssl_cert_reqs=none", want: "has the parameter ssl_cert_reqs, and a unix socket has no TLS"},
		{text: "rediss://h?ssl_cert_reqs=hunter2", want: "has the parameter ssl_cert_reqs, which must be required, optional or none"},
		{text: "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=true", want: "has the parameter ssl_check_hostname, which needs ssl_cert_reqs=required"},
		{text: "rediss://h?ssl_keyfile=hunter2", want: "has the parameter ssl_keyfile without ssl_certfile"},
		{text: "rediss://h?ssl_ca_certs=a&ssl_ca_data=b", want: "has both ssl_ca_certs and ssl_ca_data: keep one of them"},
		{text: "redis://h?host=x", want: "has the parameter host, which is refused: write it before the question mark"},
		{text: "redis://h?unknown_one=x", want: "has the parameter unknown_one, which is not known"},
		{
			text: "redis://h/shop?ssl=true&path=/x&SSL_Keyfile=x", want: "has another spelling of the parameter ssl_keyfile: write ssl_keyfile; " +
				"has the parameter path, which is refused: write unix:///PATH; has the parameter ssl, which is refused: write rediss://; " +
				"must be a URL whose path is the number of a database",
		},
		{text: "redis://h?hunter2=x", want: "has a parameter that is not known"},
	} {
		c := &Check{Kind: CheckRedis, MasterName: test.master, Folder: "/dir"}
		if test.kind != "" {
			c.Kind = test.kind
		}
		l, err := c.ParseRedis(Secret(test.text))
		got := ""
		if err != nil {
			got = err.Error()
		} else {
			got = describeLocation(l)
		}
		if got != test.want {
			t.Errorf("%s %s:\n got %q\nwant %q", c.Kind, test.text, got, test.want)
		}
	}
	c := &Check{Kind: CheckRedis, TLS: CheckTLS{Roots: Content{File: "/x"}}}
	if _, err := c.ParseRedis("rediss://h?ssl_ca_certs=a"); err == nil || err.Error() != "has the parameter ssl_ca_certs, and the check also has sslrootcert: keep one of them" {
		t.Error(err)
	}
	for _, test := range []struct {
		own        bool
		text, want string
	}{
		{false, "sentinel://a?ssl_cert_reqs=none", "  0 TLS any of a:26379"},
		{true, "sentinel://a?ssl_cert_reqs=none", "  0 TLS any of a:26379 with TLS"},
		{true, "sentinel://a", "  0 of a:26379 with TLS"},
		{false, "sentinel://a", "  0 of a:26379"},
		{true, "redis://a", "must begin with sentinel://, since the check has keys for sentinels"},
	} {
		c := &Check{Kind: CheckRedis, SentinelUsesTLS: test.own}
		if test.text != "redis://a" {
			c.MasterName = "m"
		}
		l, err := c.ParseRedis(Secret(test.text))
		got := fmt.Sprint(err)
		if err == nil {
			got = describeLocation(l)
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.text, got, test.want)
		}
	}
	c = &Check{Kind: CheckRedis, SentinelPassword: Content{Text: "hunter2"}}
	if _, err := c.ParseRedis("redis://h"); err == nil || err.Error() != "must begin with sentinel://, since the check has keys for sentinels" {
		t.Error(err)
	}
}

// TestRedisParametersPage: docs/checks.md has every parameter that is not refused.
func TestRedisParametersPage(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/checks.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(honouredRedisParameters(), ignoredRedisParameters()...) {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/checks.md does not have the parameter %s", name)
		}
	}
}

// describeLocation returns the servers of a location as a text.
func describeLocation(l *RedisLocation) string {
	var servers []string
	for _, s := range l.Servers {
		text := fmt.Sprintf("%s %s %d", s.Network, s.Address, s.Database)
		if s.Password != "" {
			text += " as " + s.Username + ":" + string(s.Password)
		}
		if s.TLS != nil {
			text += " TLS"
			switch {
			case s.TLS.SkipVerify:
				text += " any"
			case s.TLS.SkipName:
				text += " any name"
			case s.TLS.Cert.IsSet():
				text += fmt.Sprintf(" roots %s, %s and %s", s.TLS.Roots.File, s.TLS.Cert.File, s.TLS.Key.File)
			}
		}
		servers = append(servers, text)
	}
	text := strings.Join(servers, "; ")
	if len(l.Sentinels) > 0 {
		text += " of " + strings.Join(l.Sentinels, ", ")
		if l.SentinelTLS != nil {
			text += " with TLS"
		}
	}
	return text
}
