-- Removes sockets of a dead gateway: ARGV is the gateway under way or none, the last sign of life of one that is
-- dead, now, end of a grace that begins, how much to do, and since when one that was begun has been given up by
-- whoever began. Answers with the gateway, whether sockets are
-- left, how many went, and what happened; with nothing when no gateway is dead.
local gateway, heard, now, ends, limit, idle = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
if gateway == '' then
  gateway = call('ZRANGE', GATEWAYS, '-inf', heard, 'BYSCORE', 'LIMIT', 0, 1)[1]
  if gateway then
    call('ZREM', GATEWAYS, gateway)
    call('HDEL', NUMBERS, gateway)
  else
    gateway = call('ZRANGE', DEAD, '-inf', idle, 'BYSCORE', 'LIMIT', 0, 1)[1]
    if not gateway then
      return false
    end
  end
elseif not call('ZSCORE', DEAD, gateway) then
  -- It has come back with a snapshot, or another has done the rest.
  return { gateway, 0, 0, told }
end
local sockets = 0
for _, key in ipairs(call('HRANDFIELD', SOCKETS .. gateway, limit)) do
  local namespace, id = string.match(key, '^(%Z*)%z(.*)$')
  disconnect(gateway, namespace, id, ends)
  sockets = sockets + 1
  -- A socket costs its rooms.
  if sockets + #told >= limit then
    break
  end
end
finish()
local more = call('EXISTS', SOCKETS .. gateway)
if more == 1 then
  call('ZADD', DEAD, now, gateway)
else
  call('ZREM', DEAD, gateway)
end
return { gateway, more, sockets, told }
