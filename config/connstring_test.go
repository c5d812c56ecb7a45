// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
)

// connection parses a connection string and validates its settings.
func connection(text string) (*Connection, error) {
	settings, err := ParseConnString(Secret(text))
	var problems, others ConnStringError
	if err != nil && !errors.As(err, &problems) {
		return nil, err
	}
	c, err := NewConnection(settings)
	if errors.As(err, &others) || problems != nil {
		return nil, append(problems, others...).Err()
	}
	return c, err
}

// describe returns what differs from a connection of host=h user=u without other settings.
func describe(c *Connection) string {
	var parts []string
	add := func(name, value string, usual string) {
		if value != usual {
			parts = append(parts, name+"="+value)
		}
	}
	add("host", c.Host, "h")
	add("address", c.Address, "")
	add("port", fmt.Sprint(c.Port), "5432")
	add("user", c.User, "u")
	add("database", c.Database, "")
	add("password", string(c.Password), "")
	add("mode", c.TLS.Mode, "prefer")
	add("direct", fmt.Sprint(c.TLS.Direct), "false")
	add("roots", c.TLS.Roots, "")
	add("certificate", c.TLS.Certificate+c.TLS.Key+string(c.TLS.KeyPassword.Text), "")
	add("revoked", c.TLS.Revoked, "")
	add("certmode", c.TLS.CertMode, "allow")
	add("name", c.TLS.ServerName, c.Host)
	add("sendname", fmt.Sprint(c.TLS.SendName), "true")
	add("versions", fmt.Sprintf("%x-%x", c.TLS.MinVersion, c.TLS.MaxVersion), "0-0")
	add("binding", c.ChannelBinding, "prefer")
	add("auth", c.RequireAuth, "")
	add("protocols", c.MinProtocol+"-"+c.MaxProtocol, "-")
	for _, name := range slices.Sorted(maps.Keys(c.Parameters)) {
		add(name, c.Parameters[name], map[string]string{"application_name": ApplicationName}[name])
	}
	return strings.Join(parts, " ")
}

// TestConnStrings: what libpq, other drivers and platforms write is taken for what it means there, or has no meaning here.
func TestConnStrings(t *testing.T) {
	t.Parallel()
	const url = "postgres://u@h/?"
	for text, want := range map[string]string{
		url + "ssl=false":                                      "mode=disable",
		url + "ssl=0":                                          "mode=disable",
		url + "ssl=true":                                       "mode=require",
		url + "ssl=True":                                       "mode=require",
		url + "ssl=False&ssl_require=True":                     "mode=require",
		url + "ssl=1":                                          "mode=require",
		url + "ssl=verify-full":                                "mode=verify-full", // asyncpg
		url + "ssl=true&sslmode=verify-full":                   "mode=verify-full",
		url + "ssl=false&sslmode=verify-ca":                    "mode=verify-ca",
		url + "ssl=verify-full&sslmode=require":                "mode=require",
		url + "sslmode=no-verify":                              "mode=require",
		url + "requiressl=1":                                   "mode=require",
		url + "sslmode=":                                       "",
		url + "ssl-mode=verify-ca&ssl-ca=/r":                   "mode=verify-ca roots=/r",
		"jdbc:postgresql://h/?user=u&ssl=true":                 "mode=verify-full",
		"jdbc:postgresql://h/?user=u&ssl":                      "mode=verify-full",
		"jdbc:postgresql://h/?user=u&password=p":               "password=p",
		"jdbc:postgresql://h/?user=u&ssl=true&sslmode=require": "mode=require",
		"jdbc:postgresql://h/?user=u&ssl=true&sslfactory=org.postgresql.ssl.NonValidatingFactory":    "mode=require",
		"jdbc:postgresql://h/?user=u&ApplicationName=a&prepareThreshold=0&currentSchema=s":           "application_name=a",
		"jdbc:postgresql://h/?user=u&sslNegotiation=direct&channelBinding=require&loggerLevel=TRACE": "mode=require direct=true binding=require",
		url + "sslaccept=strict":                                                                       "mode=verify-full",
		url + "sslaccept=strict&sslmode=require&sslcert=/ca":                                           "mode=verify-full roots=/ca",
		url + "sslaccept=strict&sslmode=disable":                                                       "mode=disable",
		url + "sslaccept=accept_invalid_certs&sslcert=/ca&sslmode=require":                             "mode=require",
		url + "schema=public&connection_limit=5&pool_timeout=2&pgbouncer=true&socket_timeout=3":        "",
		url + "uselibpqcompat=true&sslmode=require":                                                    "mode=require",
		url + "binary_parameters=yes&supa=base-pooler.x&workaround=supabase-pooler.vercel":             "",
		url + "gssencmode=disable&keepalives=1&load_balance_hosts=random&target_session_attrs=primary": "",
		url + "gssencmode=prefer&krbsrvname=p&gsslib=g&gssdelegation=1&sslcompression=1":               "",
		url + "keepalives_idle=1&keepalives_interval=2&keepalives_count=3&tcp_user_timeout=4":          "",
		url + "connect_timeout=10&replication=false&client_encoding=auto":                              "",
		url + "fallback_application_name=f":                                                            "application_name=f",
		url + "fallback_application_name=f&application_name=a":                                         "application_name=a",
		url + "application_name=&fallback_application_name=f":                                          "application_name=f",
		url + "options=endpoint=ep-x-1":                                                                "options=endpoint=ep-x-1",
		url + "options=endpoint%3Dep-x-1%20-c%20geqo%3Doff":                                            "options=endpoint=ep-x-1 -c geqo=off",
		url + "search_path=a&statement_timeout=1&app.tenant=x":                                         "app.tenant=x search_path=a statement_timeout=1",
		url + "serverVersion=16&charset=utf8":                                                          "", // Symfony
		url + "pool=5&prepared_statements=false&conn_max_age=60&encoding=unicode":                      "", // Rails, Django
		url + "pool_max_conns=5&default_query_exec_mode=exec":                                          "", // pgx
		"postgresql+psycopg2://u@h?pool_size=1":                                                        "",
		"postgresql+asyncpg://u@h?ssl=require&command_timeout=5":                                       "mode=require",
		"postgis://u@h": "",
		"postgresql+pg8000://u@/?unix_sock=/run/postgresql/.s.PGSQL.5433": "host=/run/postgresql port=5433 mode=disable",

		url + "hostaddr=10.0.0.1&sslmode=verify-full":                                   "address=10.0.0.1 mode=verify-full",
		"hostaddr=[::1] user=u":                                                         "host= address=::1",
		"host=/run/pg user=u hostaddr=10.0.0.1":                                         "host=/run/pg address=10.0.0.1",
		"host=@name user=u":                                                             "host=@name mode=disable",
		"host=@name/.s.PGSQL.6432 user=u":                                               "host=@name port=6432 mode=disable",
		"host=/run/postgresql/.s.PGSQL.5433 user=u":                                     "host=/run/postgresql port=5433 mode=disable",
		"host=/run/postgresql/.s.PGSQL.5433 port=1 user=u":                              "host=/run/postgresql port=5433 mode=disable",
		"host=/run/postgresql user=u sslmode=verify-full":                               "host=/run/postgresql mode=disable",
		"host=[::1] user=u":                                                             "host=::1",
		"host=h. user=u":                                                                "host=h.",
		"postgres://u@h?host=%5B::1%5D":                                                 "host=::1",
		"host=h user=u database=d":                                                      "database=d",
		"host=h user=a user=u user=''":                                                  "",
		"host=h user=u sslrootcert=system":                                              "mode=verify-full roots=system",
		"host=h user=u sslnegotiation=direct":                                           "mode=require direct=true",
		"host=h user=u sslcrl=/c sslmode=verify-ca":                                     "mode=verify-ca revoked=/c",
		"host=h user=u sslcrl=/c sslmode=require sslrootcert=r":                         "mode=require roots=r revoked=/c",
		"host=h user=u sslcert=c sslkey=k sslpassword=p":                                "certificate=ckp",
		"host=h user=u sslcert=c sslkey=k sslcertmode=disable":                          "certmode=disable",
		"host=h user=u sslsni=0":                                                        "sendname=false",
		"host=h user=u ssl_min_protocol_version=TLSv1.3":                                "versions=304-0",
		"host=h user=u port=' 5433 '":                                                   "port=5433",
		"host=h username=a":                                                             "user=a",
		"host=h user=u ssl_max_protocol_version=TLSv1.1 ssl_min_protocol_version=TLSv1": "versions=301-302",
		"host=h user=u require_auth=!md5,!none":                                         "auth=!md5,!none",
		"host=h user=u min_protocol_version=3.2":                                        "protocols=3.2-",
	} {
		c, err := connection(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		} else if got := describe(c); got != want {
			t.Errorf("%s:\n got %s\nwant %s", text, got, want)
		}
	}
}

const (
	hostForm        = "must be a name, an address or the folder of a unix socket, without a port"
	requireAuthForm = "must be a list of password, md5, scram-sha-256, gss, sspi, oauth and none, or of these with a ! before each"
)

// TestRefusedConnStrings: what the exporter does not do is refused with its name and what to write instead, and never with a
// value.
func TestRefusedConnStrings(t *testing.T) {
	t.Parallel()
	const s = "host=h user=u password=hunter2 "
	for text, want := range map[string]string{
		s + "requirepeer=hunter2":            "holds requirepeer, which is refused: the exporter does not check who owns a server's process; use TLS with sslmode verify-full",
		s + "gssencmode=require":             "holds gssencmode, which is refused: the exporter does not encrypt with Kerberos; use TLS with sslmode",
		s + "sslcrldir=hunter2":              "holds sslcrldir, which is refused: write the lists into one file, and set sslcrl to it",
		s + "replication=database":           "holds replication, which is refused: a replication session runs no statements of the exporter",
		s + "sslkeylogfile=x":                "holds sslkeylogfile, which is refused: the exporter does not write the keys of TLS",
		s + "scram_client_key=hunter2":       "holds scram_client_key, which is refused: write password instead",
		s + "oauth_issuer=hunter2":           "holds oauth_issuer, which is refused: the exporter fetches no OAuth token: set require_auth=oauth, and give the token as the password, in a file or by a command",
		s + "sslinline=true":                 "holds sslinline, which is refused: write the certificates and the key into files, and set sslrootcert, sslcert and sslkey to them",
		s + "sslidentity=x":                  "holds sslidentity, which is refused: the exporter does not read PKCS #12: write sslcert and sslkey instead",
		s + "sslaccept=maybe":                "holds sslaccept, which must be strict or accept_invalid_certs",
		s + "ssl=hunter2":                    "holds ssl, which must be true, false or a value of sslmode",
		s + "ssl=true sslmode=prefer":        "holds ssl, which requires TLS, and sslmode, which does not: keep one of them",
		s + "requiressl=1 sslmode=allow":     "holds requiressl, which requires TLS, and sslmode, which does not: keep one of them",
		s + "ssl_require=true sslmode=allow": "holds ssl_require, which requires TLS, and sslmode, which does not: keep one of them",
		s + "hots=x":                         "holds hots, which is not known",
		s + "hunter2=x":                      "holds a key that is not known",
		s + "hots=x requirepeer=y":           "holds hots, which is not known; holds requirepeer, which is refused: the exporter does not check who owns a server's process; use TLS with sslmode verify-full",
		s + "hots=x sslmode=hunter2 port=0 hostaddr=a,b": "holds hots, which is not known; " + ErrSeveralServers.Error() +
			"; port must be a number from 1 to 65535; sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full",
		s + "ssl_max_protocol_version=TLSv1.1":    "ssl_max_protocol_version is below TLSv1.2, which is the lowest version unless ssl_min_protocol_version is set",
		s + "ssl_max_protocol_version=TLSv1":      "ssl_max_protocol_version is below TLSv1.2, which is the lowest version unless ssl_min_protocol_version is set",
		s + "sslmode=hunter2":                     "sslmode must be one of disable, allow, prefer, require, verify-ca, verify-full",
		s + "channel_binding=hunter2":             "channel_binding must be one of disable, prefer, require",
		s + "sslnegotiation=x":                    "sslnegotiation must be one of postgres, direct",
		s + "sslnegotiation=direct sslmode=allow": "sslnegotiation direct needs sslmode require, verify-ca or verify-full",
		s + "sslcert=x":                           "has only one of sslcert and sslkey; the certificate of an authority is sslrootcert",
		s + "sslcrl=x":                            "sslcrl needs sslmode verify-ca or verify-full",
		s + "sslcrl=x sslmode=disable":            "sslcrl needs sslmode verify-ca or verify-full",
		s + "sslrootcert=system sslmode=require":  "sslrootcert system needs sslmode verify-full",
		s + "ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2": "ssl_min_protocol_version is above ssl_max_protocol_version",
		s + "min_protocol_version=3.2 max_protocol_version=3.0":                 "min_protocol_version is above max_protocol_version",
		s + "require_auth=hunter2":                                              "require_auth " + requireAuthForm,
		s + "require_auth=md5,!none":                                            "require_auth " + requireAuthForm,
		s + "port=0":                                                            "port must be a number from 1 to 65535",
		s + "port=65536":                                                        "port must be a number from 1 to 65535",
		s + "hostaddr=hunter2":                                                  "hostaddr must be an IP address",
		"hostaddr=10.0.0.1 sslmode=verify-full":                                 "hostaddr with sslmode verify-full needs host, for which the certificate is verified",
		"host=hunter2:5432":                                                     "host " + hostForm,
		"host='hunter 2'":                                                       "host " + hostForm,
		"host=@":                                                                "host " + hostForm,
		"host=postgres://u:hunter2@h":                                           "host is a URL: write the name or the address of the server, or the URL as a connection string",
		"host=/" + strings.Repeat("x", 100):                                     "host is the folder of a unix socket whose path is longer than the system allows",
		"host=h options=" + strings.Repeat("x", 10000):                          "has user, dbname, options and parameters of more than 9900 bytes together, which no server accepts",
		"host=a,b":                   ErrSeveralServers.Error(),
		"hostaddr=10.0.0.1,10.0.0.2": ErrSeveralServers.Error(),
		"postgres://a,b/d?target_session_attrs=any": ErrSeveralServers.Error(),
		"jdbc:postgresql://h/?user=u&ssl=true&sslfactory=x.hunter2&socketFactory=y": "holds socketFactory, which is refused: the exporter has no Java class to connect with: write host; " +
			"holds sslfactory, whose class is not known here: write sslmode and sslrootcert instead",
	} {
		_, err := connection(text)
		if err == nil || err.Error() != want {
			t.Errorf("%.200s:\n got %v\nwant %s", text, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: a value is shown: %v", text, err)
		}
	}
}

// TestLibpqSettings: libpq's variables have the same rules as its keywords.
func TestLibpqSettings(t *testing.T) {
	t.Parallel()
	settings, err := LibpqSettings(func(name string) string {
		return map[string]string{
			"PGHOST": "h", "PGHOSTADDR": "10.0.0.1", "PGUSER": "u", "PGSSLMODE": "verify-full", "PGSSLCRL": "/c", "PGTZ": "UTC",
			"PGGSSENCMODE": "prefer", "PGCONNECT_TIMEOUT": "x", "PGSSLMINPROTOCOLVERSION": "TLSv1.3", "PGCLIENTENCODING": "UTF8",
		}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewConnection(settings)
	if err != nil {
		t.Fatal(err)
	}
	want := "address=10.0.0.1 mode=verify-full revoked=/c versions=304-0 client_encoding=UTF8 timezone=UTC"
	if got := describe(c); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for variable, value := range map[string]string{"PGREQUIREPEER": "hunter2", "PGGSSENCMODE": "require", "PGSSLCRLDIR": "hunter2"} {
		_, err := LibpqSettings(func(name string) string { return map[string]string{variable: value}[name] })
		var problems ConnStringError
		if !errors.As(err, &problems) || !strings.HasPrefix(err.Error(), variable+" is refused: ") {
			t.Errorf("%s: %v", variable, err)
		}
	}
}

// TestUnknownKeyword tests that an unknown keyword is named beside a known one, and that a text that may be a secret in the wrong
// place is not repeated.
func TestUnknownKeyword(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Host=h Username=u PASSWORD=hunter2 SSL-Mode=require Hunter=two user_Id=x": "holds a key that is not known; " +
			"holds another spelling of host: write host; holds another spelling of password: write password; " +
			"holds another spelling of sslmode: write sslmode; holds another spelling of username: write username",
		"hunter=two": "holds a key that is not known", "host=h hunter=two": "holds hunter, which is not known",
		"host=h idle_session_timeout=1 jit=off": "<nil>", "\nhost=h\r\n": "<nil>", " postgres://h/d\n": "<nil>",
	} {
		if _, err := connection(text); fmt.Sprint(err) != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// TestFilesOfConnString: a configuration is loaded without reading the files of its connection strings.
func TestFilesOfConnString(t *testing.T) {
	t.Parallel()
	for dsn, want := range map[string]string{
		"host=h user=u sslmode=verify-full sslrootcert=/dev/zero": "",
		"host=h user=u sslcert=/dev/zero sslkey=/dev/zero":        "",
		"host=h user=u passfile=/dev/zero":                        "holds passfile",
		"postgres://u@h/?service=s&servicefile=%2Fdev/zero":       "holds service",
	} {
		_, err := parseText(t, fmt.Sprintf("targets: {a: {dsn: %q}}", dsn))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", dsn, err, want)
		}
	}
}
