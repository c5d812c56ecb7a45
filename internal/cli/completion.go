// Copyright 2026 The pg_liveness_exporter authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"slices"
	"strings"

	"github.com/alecthomas/kingpin/v2"
)

// completionFlag begins a command line that is to be completed. The scripts packages/completion.* call the program with it.
// kingpin has this flag, but neither completes commands nor a value behind an equals sign.
const completionFlag = "--completion-bash"

// complete returns what the last of the words of a command line can become. None means that it may be anything, such as a file.
func complete(app *kingpin.ApplicationModel, words []string) []string {
	if len(words) == 0 {
		return nil
	}
	before, current := words[:len(words)-1], words[len(words)-1]
	flags := app.Flags
	var command *kingpin.CmdModel
	var awaiting *kingpin.FlagModel // the flag whose value is the next word
	for _, word := range before {
		switch {
		case awaiting != nil:
			awaiting = nil
		case strings.HasPrefix(word, "--"):
			i := slices.IndexFunc(flags, func(flag *kingpin.FlagModel) bool { return "--"+flag.Name == word })
			if i >= 0 && !flags[i].IsBoolFlag() {
				awaiting = flags[i]
			}
		case command == nil:
			if i := slices.IndexFunc(app.Commands, func(c *kingpin.CmdModel) bool { return c.Name == word }); i >= 0 {
				command = app.Commands[i]
				flags = flagsOf(command, slices.Concat(command.Flags, flags))
			}
		}
	}
	var candidates []string
	switch {
	case awaiting != nil:
		candidates = valuesOf(awaiting)
	case !strings.HasPrefix(current, "-") && (command == nil || command.Name == "help"):
		for _, c := range app.Commands {
			candidates = append(candidates, c.Name)
		}
	case current == "", strings.HasPrefix(current, "-"):
		for _, flag := range shown(flags) {
			candidates = append(candidates, "--"+flag.Name)
			if isSwitch(flag) {
				candidates = append(candidates, "--no-"+flag.Name)
			}
			for _, value := range valuesOf(flag) {
				if strings.HasPrefix(current, "--"+flag.Name+"=") {
					candidates = append(candidates, "--"+flag.Name+"="+value)
				}
			}
		}
	}
	return slices.DeleteFunc(candidates, func(candidate string) bool { return !strings.HasPrefix(candidate, current) })
}

// valuesOf returns the values of a flag that has only a few.
func valuesOf(flag *kingpin.FlagModel) []string {
	values := strings.Split(flag.PlaceHolder, "|")
	if len(values) == 1 {
		return nil
	}
	return values
}
