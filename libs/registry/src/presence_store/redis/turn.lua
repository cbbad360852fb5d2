-- Whose turn it is to tell a room of its members: ARGV is namespace, room, milliseconds until the next turn.
-- Answers with the members, or with nothing.
local room = ARGV[1] .. '\0' .. ARGV[2]
if not call('SET', TURNS .. room, '', 'NX', 'PX', ARGV[3]) then
  return false
end
return call('ZCARD', MEMBERS .. room)
