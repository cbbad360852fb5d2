-- Members of a room: ARGV is namespace, room, the user behind whom to begin or none, how many.
local namespace, room = ARGV[1], ARGV[2]
local found = {}
for at, user in ipairs(page(MEMBERS .. namespace .. '\0' .. room, ARGV[3], ARGV[4])) do
  local since, username = oldest(namespace, user)
  if not since then
    since, username = grace(call('HGET', STAYS .. namespace .. '\0' .. user, 'g' .. room))
  end
  found[at] = { user, since, username }
end
return found
