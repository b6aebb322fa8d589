# Which hosts lost guests, to what, on which DIMM: one line a guest, from the collector's file. An incident counts with the
# last state that its host sent, and only if it began after $since. A line that is not whole has a line here too: imjournal
# cuts an incident at 64 KiB, and it would be missing otherwise.
#
#   jq -nrR --arg since "$(date -u -d '30 days ago' +%FT%TZ)" -f lost-guests.jq incidents.jsonl
reduce (inputs | . as $line | try fromjson catch {host: "?", incident: {id: $line[:120], cut: true}}) as $sent
    ({}; .[$sent.host + " " + $sent.incident.id] = $sent)
| .[]
| .host as $host
| .incident
| if .cut then
    ["?", "not whole", .id]
  else
    select(.outcome | IN("guest_panicked", "guest_reset", "vmm_killed", "vmm_exited"))
    | select(.cause != "not_poison" and .started_at >= $since)
    | [$host, .started_at, .vm.name // "?", .outcome, .cause, .confidence,
       .origin.dimm.label // "DIMM not named: pfn \(.page.pfn)"]
  end
| @tsv
