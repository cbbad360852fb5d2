-- Listed rooms: ARGV is namespace, the room behind which to begin or none, how many. Answers with name, members
-- and sockets of each.
local namespace = ARGV[1]
local found = {}
for at, room in ipairs(page(LISTED .. namespace, ARGV[2], ARGV[3])) do
  found[at] = {
    room,
    call('ZCARD', MEMBERS .. namespace .. '\0' .. room),
    tonumber(call('HGET', INSIDE .. namespace, room) or 0),
  }
end
return found
