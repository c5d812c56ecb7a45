// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package dsn

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5/pgconn"
)

// TestParse: both forms give the settings that libpq finds in them.
func TestParse(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"":                            "",
		" \t":                         "",
		"host=h user=u":               "host=h|user=u",
		" host = h\tuser='a \\'b' x=": "host=h|user=a 'b|x=",
		`password=a\ b\\ c=d\`:        `password=a b\|c=d`,
		`password=a\ `:                "password=a ",
		"a='x'b=y":                    "a=x|b=y",
		"host=a host=b":               "host=a|host=b",
		"postgres://":                 "",
		"postgres://h":                "host=h",
		"postgresql://u:p%40@h:5/d?sslmode=require&options=endpoint%3Dx": "user=u|password=p@|host=h|port=5|dbname=d|sslmode=require|options=endpoint=x",
		"postgres://u:@h/?options=endpoint=x-1":                          "user=u|host=h|options=endpoint=x-1",
		"postgres://h?a=b&":                                              "host=h|a=b",
		"postgres://a,[::1]:5,b:6/d":                                     "host=a,::1,b|port=,5,6|dbname=d",
		"postgres://u@%2Frun%2Fpg/d":                                     "user=u|host=/run/pg|dbname=d",
		"postgres:///d?host=/run/pg":                                     "dbname=d|host=/run/pg",
		"postgres://u:pa?ss=x@h/d":                                       "user=u|password=pa?ss=x|host=h|dbname=d",
		"postgresql+psycopg://u@h/d":                                     "user=u|host=h|dbname=d",
		"postgis://u@h/d":                                                "user=u|host=h|dbname=d",
		"jdbc:postgresql://h/d?user=u&ApplicationName=":                  "jdbc|host=h|dbname=d|user=u|ApplicationName=",
		"jdbc:postgresql:d?user=u":                                       "jdbc|host=localhost|dbname=d|user=u",
		"jdbc:postgresql:/":                                              "jdbc|host=localhost",
		"jdbc:postgresql:///d":                                           "jdbc|host=localhost|dbname=d",
		"\ufeffpostgres://h\r\n":                                         "host=h",
		"Postgres://u@h/d":                                               "user=u|host=h|dbname=d",
		"postgres://u:p#s&s s?[s]:s$@h/d":                                "user=u|password=p#s&s s?[s]:s$|host=h|dbname=d",
		"postgres://u@h/d?password=p@ss/s":                               "user=u|host=h|dbname=d|password=p@ss/s",
		"postgres://h:/d":                                                "host=h|dbname=d",
		"host=h password='psql postgres://a, b=c'":                       "host=h|password=psql postgres://a, b=c",
		"password=$HOME host=h":                                          "password=$HOME|host=h",
	} {
		settings, jdbc, err := Parse(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		var got []string
		if jdbc {
			got = append(got, "jdbc")
		}
		for _, s := range settings {
			got = append(got, s.Key+"="+s.Value)
		}
		if diff := cmp.Diff(want, strings.Join(got, "|")); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
}

// TestErrors: what is no connection string gives an error that repeats nothing of it.
func TestErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"hunter2":                                   "is not a list of keyword=value",
		"host=h hunter2":                            "is not a list of keyword=value",
		"host=h pass word=hunter2":                  "is not a list of keyword=value",
		"password='hunter2":                         "is not a list of keyword=value",
		`password='hunter2\'`:                       "is not a list of keyword=value",
		"=hunter2":                                  "is not a list of keyword=value",
		"postgres://u:hunter2%zz@h":                 "is not a valid URL",
		"postgres://u:hunter2%2@h":                  "is not a valid URL",
		"postgres://u:hunter2@h/%00":                "is not a valid URL",
		"postgres://u:hunter2@[::1/d":               "is not a valid URL",
		"postgres://u:hunter2@[::1]x/d":             "is not a valid URL",
		"postgres://u:hunter2@[]/d":                 "is not a valid URL",
		"postgres://h?hunter2":                      "a parameter is not name=value",
		"postgres://h?&a=hunter2":                   "a parameter is not name=value",
		"mysql://u:hunter2@h/d?a=b":                 "does not begin with postgres://",
		"'postgres://u:hunter2@h/d?a=b'":            "is in quotes: remove them",
		`"postgres://u:hunter2@h/d"`:                "is in quotes: remove them",
		"'host=h password=hunter2'":                 "is in quotes: remove them",
		`"host=h password=hunter2"`:                 "is in quotes: remove them",
		"postgres://u:hun@ter2@h/d":                 "%40 for @",
		"postgres://u:hun/ter2@h/d":                 "%2F for /",
		"postgres://u:1/hunter2@h/d":                "%2F for /", // a port and a database otherwise
		"postgres://u:hun%ter2@h/d":                 "%25 for %",
		"postgres://u:h?n/ter2@h/d":                 "%2F for /",
		"postgres://u:1?n/ter2@h/d":                 "%2F for /",
		"postgres://u@example.org:hunter2@h/d":      "%40 for @",
		"postgres://u:hunter2@h:hunter/d":           "its port is not a number",
		"postgres://u:hunter2@::1:5432/d":           "put an IPv6 address into brackets",
		"psql postgres://u:hunter2@h/d":             "begins with a command or with the name of a variable",
		"psql 'postgres://u:hunter2@h/d?a=b'":       "begins with a command or with the name of a variable",
		"psql -h h -U hunter2":                      "begins with a command or with the name of a variable",
		"DATABASE_URL=postgres://u:hunter2@h/d?a=b": "begins with a command or with the name of a variable",
		"export PGURL='postgres://u:hunter2@h/d'":   "begins with a command or with the name of a variable",
		`{"host":"h","password":"hunter2"}`:         "is JSON",
		"$HUNTER2":                                  "was not replaced by its value",
		"${{Postgres.hunter2}}":                     "was not replaced by its value",
		"host=h, port=5, user=u, password=hunter2":  "has commas between its settings",
		"port=5,host=h":                             "has commas between its settings",
		"postgres://u:hunter2@h/d postgres://u@h":   "several connection strings",
		"postgres://u:hunter2@h/d;postgres://u@h":   "several connection strings",
		"postgres://u:hunter2@h/d\npostgres://u@h":  "several connection strings",
		"jdbc:postgresql://h,jdbc:postgresql://h":   "several connection strings",
		"jdbc:mysql://h/d?password=hunter2":         "does not begin with postgres://",
		"Host=h;Username=u;Password=hunter2":        "form of Npgsql",
		"Server=h; Port=5; Password=hunter2":        "form of Npgsql",
		"host=h password=hunter2\x00":               "NUL byte",
		"postgres://u:hunter2@h,postgresql://u@h":   "several connection strings",
		"host=a user=u password=hunter2,host=b a=b": "several connection strings",
	} {
		_, _, err := Parse(text)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter") {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

// TestListsSeveral: a comma that belongs to a value does not make a list of connection strings.
func TestListsSeveral(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"postgres://u:p@h/d,postgresql://u:p@h/d":     true,
		"postgres://u:p,w@h/d":                        false,
		"host=a user=u password=p,host=b user=u":      true,
		"host=a user=u password='p,host=b'":           false,
		`host=a user=u password=p\',\ host=b`:         false,
		"host=a user=u password=p,w":                  false,
		"host=a user=u options='-c work_mem=1,a=b'":   false,
		"postgres://u:p%2Cpostgres%3A%2F%2Fx@h/d?x=y": false,
	} {
		if _, _, err := Parse(text); errors.Is(err, ErrSeveral) != want {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// FuzzParse: the settings are those that pgconn finds, which follows libpq too.
func FuzzParse(f *testing.F) {
	for _, text := range []string{
		"host=h user=u", `host = h  user='a \'b' dbname=d options=-c\ x sslmode=`, "host=h\tuser= password=\\",
		"postgres://u:p@h:5/d?sslmode=require&x=y", "postgresql://u%40@[::1]:5,h2/%20?dbname=%41&application_name=a%2Fb",
		"postgres:///?host=/tmp&applic%61tion_name=/x", "postgres://u@/?options=a", "host='", "a", "=b", "postgres://?a", " ",
		"\ufeffa=b", "\ufeffpostgres://u@h/?a=b",
	} {
		f.Add(text)
	}
	f.Setenv("HOME", "/nonexistent")
	f.Fuzz(func(t *testing.T, text string) {
		text = strings.TrimPrefix(text, "\ufeff") // Parse does it, and pgconn does not
		if trimmed := strings.Trim(text, space); strings.Contains(trimmed, "://") {
			text = trimmed // Parse does it for a URL, and pgconn does not
		}
		if scheme := urlScheme.FindString(text); scheme != strings.ToLower(scheme) {
			return // not a URL for pgconn
		}
		settings, jdbc, err := Parse(text)
		if err != nil || jdbc || len(settings) == 0 {
			return
		}
		last := make(map[string]string)
		for _, s := range settings {
			if s.Key == "database" { // pgconn's name
				s.Key = "dbname"
			}
			last[s.Key] = s.Value
		}
		for _, key := range []string{"service", "servicefile", "passfile", "sslrootcert", "sslcert", "sslkey"} {
			if last[key] != "" {
				return // pgconn reads files
			}
		}
		cfg, err := pgconn.ParseConfig(text)
		if err != nil {
			return // this parser is more lenient, and pgconn looks at values too
		}
		for name, value := range cfg.RuntimeParams {
			if last[name] != value {
				t.Errorf("%s is %q, want %q", name, last[name], value)
			}
		}
		got := fmt.Sprintf("%q %q %q", last["user"], last["password"], last["dbname"])
		want := fmt.Sprintf("%q %q %q", cfg.User, cfg.Password, cfg.Database)
		if last["user"] != "" && got != want {
			t.Errorf("user, password and database are %s, want %s", got, want)
		}
	})
}
