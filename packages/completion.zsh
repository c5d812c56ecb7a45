#compdef pg_liveness_exporter
# Completions of pg_liveness_exporter for zsh. The program itself knows its commands, its flags and their values.
local -a candidates
candidates=("${(@f)$(${words[1]} --completion-bash "${(@)words[2,CURRENT]}" 2>/dev/null)}")
if [[ -n $candidates ]]; then
    compadd -a candidates
else
    compset -P '*='
    _files
fi
