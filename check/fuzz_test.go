// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package check

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"

	"pg_liveness_exporter/config"
)

// FuzzRESP: replies of any bytes are read within their limits, and an error for everybody holds nothing of them but a
// code.
func FuzzRESP(f *testing.F) {
	for _, replies := range []string{
		"+PONG\r\n", "$5\r\nhello\r\n:7\r\n", "$-1\r\n", "-NOAUTH Authentication required.\r\n", "-ERR DB index is out of range\r\n", "*2\r\n:1\r\n:2\r\n",
		"$9223372036854775807\r\n", "$65536\r\n", ":-9223372036854775809\r\n", "$0\r\n\r\n", "*2\r\n$1\r\na\r\n+b\r\n", "*-1\r\n", "%1\r\n", "_\r\n", "+\r\n", "\r\n", "+" + strings.Repeat("x", maxLine),
	} {
		f.Add([]byte(replies))
	}
	f.Fuzz(func(t *testing.T, replies []byte) {
		r := &redisConn{in: bufio.NewReaderSize(bytes.NewReader(replies), maxLine)}
		for read := 0; ; read++ {
			reply, err := r.read()
			if err != nil {
				return
			}
			if read > len(replies) {
				t.Fatal("more replies than bytes")
			}
			switch reply := reply.(type) {
			case nil, int64:
			case []string:
				if len(reply) > maxArray {
					t.Errorf("%d entries", len(reply))
				}
			case string:
				if len(reply) > maxBulk {
					t.Errorf("a string of %d bytes", len(reply))
				}
			case redisError:
				err := reply.public()
				var public PublicError
				if !errors.As(err, &public) && !errors.Is(err, errUnexpectedReply) || len(err.Error()) > 60 {
					t.Errorf("%q", err)
				}
			default:
				t.Errorf("a reply of type %T", reply)
			}
		}
	})
}

// FuzzCelery: only a reply with the ticket of this run counts, and no body of any bytes does harm.
func FuzzCelery(f *testing.F) {
	const ticket = "TICKET"
	c := newCelery(dependency{&config.Check{Queue: "q"}, nil})
	ping, err := c.message("ping", nil, ticket)
	if err != nil {
		f.Fatal(err)
	}
	const head = `{"content-type":"application/json","headers":{"ticket":"TICKET"},"properties":{"delivery_tag":"x","body_encoding":"base64"},"body":`
	for _, message := range []string{
		ping, `{"headers":{"ticket":"TICKET"},"properties":{"delivery_tag":"x"}}`, `{"headers":{"ticket":"other"},"properties":{"delivery_tag":"x"}}`,
		`{"headers":{"ticket":"TICKET"},"properties":{"delivery_tag":7}}`, `{"headers":null,"properties":[]}`, strings.Repeat("[", 1000), "null", "",
		head + `"eyJ3IjpbeyJuYW1lIjoicSJ9XX0="}`, head + `"eyJ3Ijp7ImVycm9yIjoieCJ9fQ=="}`, head + `"bnVsbA=="}`, head + `"%"}`,
	} {
		f.Add(message)
	}
	f.Fuzz(func(t *testing.T, message string) {
		e, tag, ok := parseReply(message, ticket)
		if !ok && tag != "" {
			t.Errorf("no reply, but the tag %q", tag)
		}
		if _, _, other := parseReply(message, "ANOTHER"); ok && other {
			t.Error("one reply counts for two runs")
		}
		if consumes, err := c.counts(e); consumes && err != nil {
			t.Error("a worker counts that has an error")
		}
	})
}
