# Completions of pg_liveness_exporter for fish. The program itself knows its commands, its flags and their values.
function __pg_liveness_exporter_complete
    set --local words (commandline --current-process --tokenize --cut-at-cursor)
    $words[1] --completion-bash $words[2..] (commandline --current-token --cut-at-cursor) 2>/dev/null
end
complete --command pg_liveness_exporter --arguments '(__pg_liveness_exporter_complete)'
