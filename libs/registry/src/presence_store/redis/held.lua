-- What some sockets of a gateway are: ARGV is gateway, then the sockets. Answers with the particulars and the
-- rooms of each.
local gateway = ARGV[1]
local held = {}
for at = 2, #ARGV do
  held[at - 1] = { call('HGET', SOCKETS .. gateway, ARGV[at]), call('HKEYS', PLACES .. gateway .. ARGV[at]) }
end
return held
