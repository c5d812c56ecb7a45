// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"context"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// noNames is a resolver that knows no name, and records whether it was asked.
type noNames struct{ asked atomic.Bool }

func (n *noNames) LookupHost(context.Context, string) ([]string, error) {
	n.asked.Store(true)
	return nil, &net.DNSError{Err: "no such host", IsNotFound: true}
}

// FuzzConnString: a connection string that the grammar makes of keywords and values causes no panic, and shows no value.
// What fails before a name is resolved or an address is dialled is misconfigured.
func FuzzConnString(f *testing.F) {
	const secret = "s3cr3tw0rd"
	keys := strings.Fields("host hostaddr port user password dbname sslmode ssl sslaccept sslfactory sslrootcert sslcert sslkey sslpassword " +
		"sslcrl sslcrldir sslnegotiation sslcertmode sslsni requirepeer require_auth channel_binding gssencmode options search_path a.b " +
		"application_name fallback_application_name client_encoding replication target_session_attrs connect_timeout unix_sock passfile service " +
		"min_protocol_version max_protocol_version ssl_min_protocol_version ssl_max_protocol_version pgbouncer prepareThreshold unknown " + secret)
	values := []string{
		"", secret, "h", "h:5432", "/nonexistent/" + secret, "/tmp/.s.PGSQL.1", "@" + secret, "[::1]", "10.0.0.1", "a,b", "0", "1", "5432", "99999",
		"true", "false", "require", "verify-full", "disable", "prefer", "system", "strict", "direct", "TLSv1.3", "3.2", "latest", "none", "!md5",
		"database", "postgres://u:" + secret + "@h", "-c a=" + secret, "'", `\`, "%", "ü", " ", "\t", strings.Repeat(secret, 1100),
	}
	for i := range keys {
		f.Add([]byte{byte(i % 8), byte(i), byte(3 * i), byte(i + 1), byte(i), byte(3), byte(5 * i)})
	}
	f.Setenv("HOME", "/nonexistent")
	f.Fuzz(func(t *testing.T, choices []byte) {
		if len(choices) == 0 || len(choices) > 21 {
			return
		}
		form, choices := choices[0], choices[1:]
		begin := []string{"host=h user=u ", "", "postgres://u:" + secret + "@h/d?", "postgresql+x://h?", "jdbc:postgresql://h/?", "postgres://?"}[form%6]
		dsn := begin
		for ; len(choices) > 1; choices = choices[2:] {
			key, value := keys[int(choices[0])%len(keys)], values[int(choices[1])%len(values)]
			switch {
			case strings.HasSuffix(dsn, "?"), strings.Contains(dsn, "://") && strings.HasSuffix(dsn, "&"):
				dsn += key + "=" + strings.ReplaceAll(url.QueryEscape(value), "+", "%20") + "&"
			case form > 127: // without quotes
				dsn += key + "=" + value + " "
			default:
				dsn += key + "='" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(value) + "' "
			}
		}
		resolver := &noNames{}
		p := newTestProberFor(t, dsn, func(o *Options) { o.Resolver = resolver })
		r := runProbe(t, p, 5*time.Second)
		switch {
		case r.Up():
			t.Errorf("%q: a server that does not exist is up", dsn)
		case strings.Contains(r.Failure.String()+r.Failure.Detail, secret):
			t.Errorf("%q: shows a secret: %s: %s", dsn, r.Failure.String(), r.Failure.Detail)
		case !resolver.asked.Load() && r.Failure.Phase != PhaseDial && r.Failure.State != StateMisconfigured:
			t.Errorf("%q: %+v, although nothing was asked", dsn, r.Failure)
		}
	})
}
