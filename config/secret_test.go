// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package config

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// TestSecret: no format shows a secret, also inside a target.
func TestSecret(t *testing.T) {
	t.Parallel()
	s := struct{ Password Secret }{"hunter2"}
	encoded, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	type unexported struct{ password Sealed }
	outer := struct{ inner unexported }{unexported{Seal("hunter2")}}
	if outer.inner.password.Secret() != "hunter2" || (Sealed{}).Secret() != "" {
		t.Error("another secret is sealed")
	}
	connection := Connection{Password: "hunter2", TLS: TLS{KeyPassword: PasswordSource{Text: "hunter2"}}}
	target := Target{Login: Login{Connection: &connection, Password: PasswordSource{Text: "hunter2"}}}
	for _, text := range []string{
		fmt.Sprintf("%s %v %+v %#v %q", s.Password, s, s, s, s.Password), string(encoded), fmt.Sprintf("%v %+v %#v", connection, &connection, connection), fmt.Sprintf("%v %+v %#v", target, &target, target),
		fmt.Sprintf("%v %+v %#v", outer, &outer, outer),
	} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("shown: %s", text)
		}
	}
}
