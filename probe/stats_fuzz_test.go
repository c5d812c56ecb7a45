// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package probe

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"pg_liveness_exporter/config"
)

// table returns a result whose first line has the names of the columns, and each other line a row. The columns are
// separated by tabs, and \N is NULL, as in COPY. The names are valid UTF-8, since only known ones are shown.
func table(text string) []*pgconn.Result {
	result := &pgconn.Result{}
	for i, line := range strings.Split(text, "\n") {
		var row [][]byte
		for column := range strings.SplitSeq(line, "\t") {
			if i == 0 {
				result.FieldDescriptions = append(result.FieldDescriptions, pgconn.FieldDescription{Name: toValidUTF8([]byte(column))})
			}
			if column == `\N` {
				row = append(row, nil)
			} else {
				row = append(row, []byte(column))
			}
		}
		if i > 0 {
			result.Rows = append(result.Rows, row)
		}
	}
	return []*pgconn.Result{result}
}

// statsTable returns the text of a result of statsSQL. Each row begins with some columns; the others are NULL.
func statsTable(rows ...string) string {
	text := strings.Repeat("\t", columnCount-1)
	for _, row := range rows {
		text += "\n" + row + strings.Repeat("\t\\N", columnCount-1-strings.Count(row, "\t"))
	}
	return text
}

// recordedTables returns the results of a recorded session as texts for table.
func recordedTables(f *testing.F, kind config.Kind) []string {
	f.Helper()
	var texts []string
	for _, reply := range readRecording(f, kind) {
		for _, m := range reply {
			switch m.Type {
			case 'T':
				var description pgproto3.RowDescription
				if err := description.Decode(m.Body); err != nil {
					f.Fatal(err)
				}
				var names []string
				for _, field := range description.Fields {
					names = append(names, string(field.Name))
				}
				texts = append(texts, strings.Join(names, "\t"))
			case 'D':
				var row pgproto3.DataRow
				if err := row.Decode(m.Body); err != nil {
					f.Fatal(err)
				}
				var values []string
				for _, value := range row.Values {
					text := string(value)
					if value == nil {
						text = `\N`
					}
					values = append(values, text)
				}
				texts[len(texts)-1] += "\n" + strings.Join(values, "\t")
			}
		}
	}
	return texts
}

// expectShowable fails if a value holds a text that is not UTF-8, or a number that JSON does not have.
func expectShowable(t *testing.T, value any) {
	t.Helper()
	if _, err := json.Marshal(value); err != nil {
		t.Error(err)
	}
	var walk func(v reflect.Value)
	walk = func(v reflect.Value) {
		switch v.Kind() {
		case reflect.String:
			if !utf8.ValidString(v.String()) {
				t.Errorf("the text %q is not UTF-8", v.String())
			}
		case reflect.Pointer:
			if !v.IsNil() {
				walk(v.Elem())
			}
		case reflect.Slice:
			for i := range v.Len() {
				walk(v.Index(i))
			}
		case reflect.Map:
			for key, element := range v.Seq2() {
				walk(key)
				walk(element)
			}
		case reflect.Struct:
			for i := range v.NumField() {
				walk(v.Field(i))
			}
		default:
		}
	}
	walk(reflect.ValueOf(value))
}

// FuzzServerStats: the rows of the statistics give an error, or figures that can be shown.
func FuzzServerStats(f *testing.F) {
	for _, text := range recordedTables(f, config.KindPostgres) {
		f.Add(text, "app", -1)
	}
	f.Add(statsTable("total\t\\N\t\\N\t\\N\t7\t7", "database\t5\tactive\t\\N\t7\t7\t0\t0\t1.5", "application\t\\N\t\\N\tpsql\t1\t1"), "postgres", 100)
	f.Add(statsTable("total\t\\N\t\\N\t\\N\t1e308\tNaN\tInfinity\t-1\t0x1p-2\t1\tt\t5\t1e308\t1.7e308\t-1.7e308\t-1.7e308\t-1e308"), "\xff", math.MaxInt)
	f.Fuzz(func(t *testing.T, text, name string, limit int) {
		results := table(text)
		for i, row := range results[0].Rows { // so that more inputs get further than the width
			if missing := columnCount - len(row); missing > 0 {
				results[0].Rows[i] = append(row, make([][]byte, missing)...)
			}
		}
		reply, err := parseStats(results, 1)
		if err != nil {
			return
		}
		c := &catalogue{databases: map[uint32]*database{5: {name: toValidUTF8([]byte(name)), limit: limit}}}
		for range 2 {
			c.setReplication(reply.server, reply.replay, time.Now())
			c.fill(reply.server, reply.backends)
		}
		expectShowable(t, reply.server)
	})
}

// FuzzPoolerStats: the rows of a PgBouncer's console give figures that can be shown.
func FuzzPoolerStats(f *testing.F) {
	for _, text := range recordedTables(f, config.KindPgBouncer) {
		f.Add(text)
	}
	for _, text := range []string{
		"database\tuser\tcl_active\tmaxwait\napp\tweb\t1\t2\napp\tweb\t3\t4", "list\titems\nusers\t3\n\\N\t\\N", "database\tx\n\xff\t1e308\n\xfe\t1e308", "key\tvalue\nk\tNaN",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		results := table(text)
		expectShowable(t, &PoolerStats{
			Pools: poolerRows(results, PoolLabels()), Databases: poolerRows(results, DatabaseLabels()), Totals: poolerRows(results, TotalLabels()),
			Lists: namedNumbers(results, "list", "items"), Config: namedNumbers(results, "key", "value"),
		})
	})
}
