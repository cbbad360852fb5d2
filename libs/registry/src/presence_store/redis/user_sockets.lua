-- A user's sockets, oldest first: ARGV is namespace, user. Answers with gateway, id and particulars of each.
local namespace = ARGV[1]
local found = {}
for at, held in ipairs(call('ZRANGE', HELD .. namespace .. '\0' .. ARGV[2], 0, -1)) do
  local gateway, id = string.sub(held, 1, 6), string.sub(held, 7)
  found[at] = { gateway, id, call('HGET', SOCKETS .. gateway, namespace .. '\0' .. id) }
end
return found
